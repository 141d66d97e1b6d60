"""What a site lends to jobs, on a clock that only moves when it is told to."""

from __future__ import annotations

import itertools
import json

import pytest
from clouddeploy_runtime.client import resources
from clouddeploy_runtime.client.resources import Machine, ResourceManager, offered_gpus
from clouddeploy_runtime.errors import NoResources
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.wire import federation_pb2 as pb

MACHINE = Machine(cpus=4, memory_gib=8.0, gpus=("0", "1", "2"))
SETTINGS = Settings(gpus=3, gib_per_gpu=16, reservation_s=300)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def manager(clock):
    return ResourceManager(SETTINGS, machine=MACHINE, clock=clock)


def need(**more):
    return json.dumps(more).encode()


def cards(environment):
    return set(environment["CUDA_VISIBLE_DEVICES"].split(","))


def test_two_jobs_never_get_the_same_card(manager):
    first = manager.check("one", need(num_of_gpus=2))
    second = manager.check("two", need(num_of_gpus=1))
    with pytest.raises(NoResources, match="1 GPUs, and 0 of 3 are free"):
        manager.check("three", need(num_of_gpus=1))
    one, two = cards(manager.claim("one", first)), cards(manager.claim("two", second))
    assert (len(one), len(two)) == (2, 1)
    assert not one & two
    manager.free("one")
    third = manager.claim("three", manager.check("three", need(num_of_gpus=2)))
    assert not cards(third) & two


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"num_of_gpus": 4}, "4 GPUs, and it has 3"),
        ({"num_of_gpus": 1, "mem_per_gpu_in_GiB": 24}, "24 GiB on each GPU, and it offers 16"),
        ({"num_of_cpus": 5}, "5 CPUs, and it has 4"),
        ({"memory_in_GiB": 8.5}, "8.5 GiB of memory, and it has 8"),
        ({"num_of_gpus": -1}, "a number is negative"),
        ({"num_of_gpus": "all"}, "Expected `int`"),
    ],
)
def test_what_a_site_never_has_is_refused_with_both_numbers(manager, wanted, why):
    answer = manager.answer(pb.CheckResources(job_id="one", need=need(**wanted)))
    assert why in answer.reason
    assert not answer.reservation
    assert json.loads(answer.offer)["free"]["gpus"] == 3


def test_processors_and_memory_are_lent_once(manager):
    manager.check("one", need(num_of_cpus=3, memory_in_GiB=6))
    with pytest.raises(NoResources, match="2 CPUs, and 1 of 4 are free"):
        manager.check("two", need(num_of_cpus=2))
    with pytest.raises(NoResources, match="4 GiB of memory, and 2 of 8 are free"):
        manager.check("two", need(memory_in_GiB=4))


def test_a_reservation_ends_with_its_time_and_by_its_release(manager, clock):
    manager.check("one", need(num_of_gpus=3))
    clock.now = 299
    with pytest.raises(NoResources):
        manager.check("two", need(num_of_gpus=1))
    clock.now = 300
    token = manager.check("two", need(num_of_gpus=3))
    manager.release(token)
    manager.release("never given")
    assert manager.check("three", need(num_of_gpus=3))


def test_what_a_job_has_claimed_it_keeps_until_it_ends(manager, clock):
    token = manager.check("one", need(num_of_gpus=3))
    before = manager.claim("one", token)
    clock.now = 10_000
    manager.release(token)
    assert manager.claim("one", token) == before, "the same trainer, started again"
    with pytest.raises(NoResources):
        manager.check("two", need(num_of_gpus=1))
    manager.free("one")
    manager.free("one")
    assert manager.check("two", need(num_of_gpus=3))


def test_a_site_that_was_restarted_honours_a_reservation_as_far_as_it_can(manager, clock):
    token = manager.check("one", need(num_of_gpus=2))
    again = ResourceManager(SETTINGS, machine=MACHINE, clock=clock)
    assert len(cards(again.claim("one", token))) == 2
    other = manager.check("two", need(num_of_gpus=1))
    again.check("three", need(num_of_gpus=1))
    with pytest.raises(NoResources):
        again.claim("two", other)
    with pytest.raises(NoResources):
        again.claim("four", "forged")


def test_a_second_question_for_a_job_takes_the_place_of_the_first(manager):
    for _ in range(3):
        token = manager.check("one", need(num_of_gpus=3))
    assert len(cards(manager.claim("one", token))) == 3


def test_a_job_without_a_need_sees_no_card_of_a_site_that_lends_them(manager):
    assert manager.claim("one", "") == {"CUDA_VISIBLE_DEVICES": ""}
    silent = ResourceManager(Settings(), machine=Machine(cpus=1, memory_gib=1, gpus=()))
    assert silent.claim("one", "") == {}


def test_the_offer_says_what_there_is_and_what_is_free(manager):
    manager.check("one", need(num_of_gpus=1, num_of_cpus=1, memory_in_GiB=2))
    answer = manager.answer(pb.CheckResources())
    assert json.loads(answer.offer) == {
        "total": {"cpus": 4, "memory_gib": 8.0, "gpus": 3, "gib_per_gpu": 16},
        "free": {"cpus": 3, "memory_gib": 6.0, "gpus": 2},
    }


@pytest.mark.parametrize(
    ("visible", "offered", "expected"),
    [
        (None, 2, ("0", "1")),
        ("3,5", 2, ("3", "5")),
        ("GPU-7a, GPU-8b,GPU-9c", 2, ("GPU-7a", "GPU-8b")),
        (None, 0, ()),
    ],
)
def test_the_cards_are_those_that_the_agent_may_see(visible, offered, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert offered_gpus(Settings(gpus=offered), environment=environment, count=lambda: 4) == expected


@pytest.mark.parametrize(
    ("visible", "there", "lent"), [(None, 1, ("0",)), ("3", 4, ("3",)), ("", 4, ()), (None, 0, ())]
)
def test_a_site_that_offers_more_cards_than_there_are_lends_those_and_says_so(visible, there, lent, caplog):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert offered_gpus(Settings(gpus=2), environment=environment, count=lambda: there) == lent
    assert f"offers 2 GPUs, and {len(lent)} can be used" in caplog.text
    assert len(offered_gpus(Settings(gpus=2, ignores_host=True), environment=environment, count=lambda: there)) == 2


def test_the_cards_are_counted_by_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: A (UUID: GPU-1)" && echo "GPU 1: A (UUID: GPU-2)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert offered_gpus(Settings(gpus=2), environment={}) == ("0", "1")
    assert offered_gpus(Settings(gpus=3), environment={}) == ("0", "1")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert offered_gpus(Settings(gpus=1), environment={}) == ()


def test_this_machine_has_processors_and_memory():
    machine = resources.this_machine(Settings())
    assert machine.cpus >= 1
    assert machine.memory_gib > 0.1
    assert machine.gpus == ()


def test_no_order_of_jobs_lends_a_card_twice(clock):
    """Every order of starting and ending three jobs."""
    for order in itertools.permutations(["one", "two", "three"]):
        manager = ResourceManager(Settings(gpus=2, gib_per_gpu=1), machine=MACHINE, clock=clock)
        lent = {}
        for job in order * 2:
            if job in lent:
                del lent[job]
                manager.free(job)
                continue
            answer = manager.answer(pb.CheckResources(job_id=job, need=need(num_of_gpus=1)))
            if answer.reservation:
                lent[job] = manager.claim(job, answer.reservation)["CUDA_VISIBLE_DEVICES"]
            assert len(set(lent.values())) == len(lent)


def test_where_an_engine_decides_every_job_gets_what_it_asks_for(clock):
    settings = Settings(is_passthrough=True)
    manager = ResourceManager(settings, machine=Machine(cpus=1, memory_gib=1.0, gpus=()), clock=clock)
    wanted = need(num_of_gpus=8, mem_per_gpu_in_GiB=80, num_of_cpus=64, memory_in_GiB=512)
    tokens = [manager.check(job, wanted) for job in ("one", "two")]
    assert [manager.claim(job, token) for job, token in zip(("one", "two"), tokens, strict=True)] == [{}, {}]
    assert json.loads(manager.offer())["free"] == {"cpus": 0, "memory_gib": 0, "gpus": 0}

"""What a job's container gets, and what is refused; an engine is asked in tests/integration/container."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clouddeploy_runtime.launchers import BadLauncher
from clouddeploy_runtime.outposts import docker, docker_container, docker_engine, docker_settings
from clouddeploy_runtime.outposts.docker_container import Place
from clouddeploy_runtime.outposts.docker_settings import DockerSettings
from clouddeploy_runtime.outposts.post import Errand
from clouddeploy_runtime.study_runtime import Dataset, SecretMount, StudyRuntime

MOUNT = docker_container.MOUNT
ERRAND = Errand(
    kind="docker",
    settings={"project": "trial", "participant": "site-1"},
    job_id="0a1b",
    role="trainer",
    site="site-1",
    sites=("site-1", "site-2"),
    app_dir="/ws/jobs/0a1b/job/app",
    run_dir="/ws/jobs/0a1b/run",
    local="/kit/local",
    study="heart",
    environment={"CLOUDDEPLOY_SCOPE": "public"},
)
AT = Place(
    user="1000:1000",
    userns="",
    image="sha256:abc",
    image_environment={"PATH": "/bin", "HOME": "/root", "LD_LIBRARY_PATH": "/cuda"},
    folder=Path("/tmp/post"),
    is_podman=False,
)
STUDY = StudyRuntime(
    datasets={"train": Dataset("/mnt/train"), "out": Dataset("/mnt/out", is_writable=True)},
    env={"MODE": "full"},
    secret_mounts={"token": SecretMount("/etc/token", "/run/token")},
    docker_kwargs={"shm_size": "4g"},
)


def options(errand=ERRAND, settings=None, study=None, at=AT):
    return docker_container.options(errand, settings or DockerSettings(network="fl"), study or StudyRuntime(), at)


def test_a_container_may_do_nothing_that_a_job_does_not_need():
    made = options()
    assert made["cap_drop"] == ["ALL"]
    assert "no-new-privileges" in made["security_opt"]
    assert made["read_only"] is True
    assert made["user"] == "1000:1000"
    assert made["network"] == "fl"
    assert made["image"] == "sha256:abc"
    assert made["name"] == "site-1-0a1b"
    assert made["entrypoint"] == ["/usr/local/bin/python"]
    assert made["command"] == ["-P", "-m", "clouddeploy_runtime.outposts.far", "/clouddeploy/line/line.json"]
    assert made["labels"] == {
        "clouddeploy.project": "trial",
        "clouddeploy.participant": "site-1",
        "clouddeploy.job": "0a1b",
        "clouddeploy.site": "site-1",
        "clouddeploy.role": "trainer",
    }


def test_of_the_machine_it_has_its_own_folders_and_the_credential_alone():
    assert options(replace(ERRAND, code=("/kit/local/custom",), data_dir="/mnt/data"))["mounts"] == [
        ("/tmp/post/line", "/clouddeploy/line", True),
        ("/tmp/post/tmp", "/clouddeploy/tmp", False),
        ("/ws/jobs/0a1b/job/app", "/clouddeploy/app", True),
        ("/ws/jobs/0a1b/run", "/clouddeploy/run", False),
        ("/kit/local/custom", "/clouddeploy/code/0", True),
        ("/mnt/data", "/clouddeploy/data", True),
    ]


def test_the_data_of_its_study_are_where_the_reference_has_them():
    made = options(study=STUDY)
    assert made["mounts"][4:] == [
        ("/mnt/train", "/data/heart/train", True),
        ("/mnt/out", "/data/heart/out", False),
        ("/etc/token", "/run/token", True),
    ]
    assert made["shm_size"] == "4g"
    launch = docker_container.launch(ERRAND, DockerSettings(), STUDY, AT, {"KEY": "secret"})
    assert launch.data_dir == "/data/heart"
    assert launch.writable == ("/data/heart/out",)
    assert set(launch.readable) == {"/data/heart/train", "/data/heart/out", "/run/token"}


def test_a_secret_is_in_no_option_of_the_container():
    settings = DockerSettings(default_job_env={"GIVEN": "yes"})
    launch = docker_container.launch(ERRAND, settings, STUDY, AT, {"KEY": "secret"})
    assert launch.environment == {
        "LD_LIBRARY_PATH": "/cuda",
        "GIVEN": "yes",
        "MODE": "full",
        "KEY": "secret",
        "CLOUDDEPLOY_SCOPE": "public",
    }
    made = options(settings=settings, study=STUDY)
    assert made["environment"] == {"HOME": "/clouddeploy/tmp", "TMPDIR": "/clouddeploy/tmp"}


def test_what_a_job_takes_is_its_limit_but_where_the_site_has_set_one():
    need = replace(ERRAND, memory_gib=2.0, cpus=3)
    made = options(need)
    assert (made["mem_limit"], made["memswap_limit"], made["nano_cpus"]) == (2 * 1024**3, 2 * 1024**3, 3 * 10**9)
    own = DockerSettings(default_job_container_kwargs={"mem_limit": "8g"})
    assert options(need, settings=own)["mem_limit"] == "8g"


def test_reserved_gpus_are_asked_for_by_number_and_numbered_anew_inside():
    errand = replace(ERRAND, environment={"CUDA_VISIBLE_DEVICES": "2,3"}, gpus=2)
    assert options(errand)["device_requests"] == [{"device_ids": ["2", "3"], "capabilities": [["gpu"]]}]
    launch = docker_container.launch(errand, DockerSettings(), StudyRuntime(), AT, {})
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("driver", "request_"),
    [
        ("nvidia", [{"count": 1, "capabilities": [["gpu"]]}]),
        ("cdi", [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=0"]}]),
        ("none", None),
    ],
)
def test_where_nobody_reserves_as_many_gpus_are_asked_for_as_the_job_takes(driver, request_):
    made = options(replace(ERRAND, gpus=1), settings=DockerSettings(gpu_driver=driver))
    assert made.get("device_requests") == request_


def test_a_job_that_takes_gpus_does_not_run_without_them_in_podman():
    with pytest.raises(BadLauncher, match="podman's API gives none"):
        options(replace(ERRAND, gpus=1), at=replace(AT, is_podman=True))


def test_a_path_in_a_container_is_another_one_on_its_machine(monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_DOCKER_WORKSPACE", "/srv/kit")
    errand = replace(ERRAND, app_dir=f"{MOUNT}/jobs/app", run_dir=f"{MOUNT}/jobs/run")
    made = options(errand, study=STUDY, at=replace(AT, folder=Path(MOUNT) / "tmp/post"))
    assert [source for source, _, _ in made["mounts"]] == [
        "/srv/kit/tmp/post/line",
        "/srv/kit/tmp/post/tmp",
        "/srv/kit/jobs/app",
        "/srv/kit/jobs/run",
        "/mnt/train",  # a path of the machine as it stands
        "/mnt/out",
        "/etc/token",
    ]
    with pytest.raises(BadLauncher, match="in the container of this site alone") as refused:
        options(errand)
    assert "TMPDIR" in refused.value.hint


@pytest.mark.parametrize(
    ("wishes", "settings", "study", "image"),
    [
        ({"image": "job:1"}, {"image": "site:1"}, "study:1", "job:1"),
        ({}, {"image": "site:1"}, "study:1", "study:1"),
        ({}, {"image": "site:1"}, "", "site:1"),
        ({}, {}, "", ""),
        ({"image": "reg/fl/job:1"}, {"job_images": ("reg/fl/*",)}, "", "reg/fl/job:1"),
    ],
)
def test_a_jobs_image_is_its_own_else_its_studys_else_the_launchers(wishes, settings, study, image):
    errand = replace(ERRAND, wishes=wishes)
    assert docker_container.image_of(errand, DockerSettings(**settings), StudyRuntime(image=study)) == image


@pytest.mark.parametrize(
    "wishes",
    [
        {"privileged": True},
        {"ipc_mode": "host"},
        {"volumes": ["/:/host"]},
        {"image": "--privileged"},
        {"image": "elsewhere/evil:1"},
        {"shm_size": "lots"},
        {"python_path": 3},
    ],
)
def test_what_a_job_may_not_choose_is_refused(wishes):
    with pytest.raises(BadLauncher, match="launcher_spec"):
        docker_container.image_of(replace(ERRAND, wishes=wishes), DockerSettings(job_images=("reg/*",)), StudyRuntime())


@pytest.mark.parametrize(
    "arguments",
    [
        {"imag": "x"},
        {"image": 1},
        {"image": "two\nlines"},
        {"network": "--privileged"},
        {"default_python_path": "python"},
        {"default_job_env": {"A B": "x"}},
        {"default_job_env": {"A": 1}},
        {"default_job_container_kwargs": {"volumes": {}}},
        {"default_job_container_kwargs": {"privileged": True}},
        {"default_job_container_kwargs": {"network_mode": "host"}},
        {"default_job_container_kwargs": []},
        {"internal_port": "1-0"},
        {"internal_port": 70_000},
        {"pending_timeout": 0},
        {"pending_timeout": True},
        {"pull": "always"},
        {"job_images": "x"},
        {"gpu_driver": "amd"},
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments):
    with pytest.raises(BadLauncher) as refused:
        docker_settings.parse(arguments)
    assert next(iter(arguments)) in str(refused.value)


def test_the_arguments_go_through_json_and_back():
    given = {"network": "fl", "internal_port": "8102-8104", "job_images": ["a", "b"]}
    checked = docker.check(given)
    assert docker_settings.parse(checked) == docker_settings.parse(given)
    assert docker_settings.parse(given).ports == (8102, 8103, 8104)


def test_options_that_a_study_may_not_set_are_refused():
    with pytest.raises(BadLauncher, match="set privileged"):
        options(study=StudyRuntime(docker_kwargs={"privileged": True}))


def test_a_relative_source_of_data_is_refused():
    with pytest.raises(BadLauncher, match="has the source"):
        options(study=StudyRuntime(datasets={"train": Dataset("train")}))


class FakeEngine:
    """An engine that starts nothing."""

    def __init__(self, *, is_podman=False, is_rootless=False):
        self.kind = docker_engine.Kind(is_podman=is_podman, is_rootless=is_rootless)
        self.containers = {}
        self.old = []
        self.now = docker_engine.State("running")
        self.networks = {"fl": "172.18.0.1"}

    def image(self, name, *, may_pull):
        return docker_engine.Image(f"sha256:{name}", name, {})

    def own(self, _name):
        return "mine:1", {"fl": "172.18.0.5"}

    def gateway(self, network):
        return self.networks.get(network, "")

    def labelled(self, _labels):
        return tuple(self.old)

    def create(self, options):
        self.containers["id"] = options
        return "id"

    def remove(self, container):
        self.containers.pop(container, None)

    def state(self, _container):
        return self.now

    def last_words(self, _container):
        return "no such module"


@pytest.fixture
def started(tmp_path):
    """Returns a function that makes a post with an engine; what it made is gone afterwards."""
    made = []

    def start(engine, **settings):
        errand = replace(ERRAND, local=str(tmp_path), settings={**ERRAND.settings, "network": "fl", **settings})
        made.append(docker.DockerPost(errand, engine))
        return made[-1]

    yield start
    for post in made:
        post.close()
        assert not post.folder.exists()


def test_the_parent_is_found_at_its_machines_address_in_the_network(started):
    assert started(FakeEngine()).way.host == "172.18.0.1"
    assert started(FakeEngine(), parent_host="fl.example.com", internal_port="8102").way.host == "fl.example.com"
    host = started(FakeEngine(), network="host").way
    assert (host.host, host.bind) == ("127.0.0.1", "127.0.0.1")
    rootless = started(FakeEngine(is_podman=True, is_rootless=True)).way
    assert rootless.host == "host.containers.internal"


def test_a_parent_in_a_container_is_found_at_that_containers_address(started, monkeypatch):
    monkeypatch.setenv(docker.OWN, "site-1")
    way = started(FakeEngine()).way
    assert (way.host, way.bind) == ("172.18.0.5", "172.18.0.5")
    with pytest.raises(BadLauncher, match="not in the network other"):
        started(FakeEngine(), network="other")


def test_a_network_without_a_way_back_is_refused(started):
    with pytest.raises(BadLauncher, match="is not known"):
        started(FakeEngine(), network="none")


def test_a_job_runs_in_its_parents_image_where_nobody_names_another(started, monkeypatch):
    with pytest.raises(BadLauncher, match="no image"):
        started(FakeEngine()).open()
    monkeypatch.setenv(docker.OWN, "site-1")
    engine = FakeEngine()
    started(engine).open()
    assert engine.containers["id"]["image"] == "sha256:mine:1"


def test_what_an_earlier_start_of_the_job_left_is_removed_first(started):
    engine = FakeEngine()
    engine.old, engine.containers = ["old"], {"old": {}}
    started(engine, image="site:1").open()
    assert set(engine.containers) == {"id"}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (("running",), ""),
        (("exited", 137, True), "its container site-1-0a1b ran out of memory"),
        (("exited", 1), "its container site-1-0a1b ended with 1; it said last: no such module"),
        (("created", 0, False, "no such device"), ""),
        (
            ("dead", 127, False, "no python"),
            "its container site-1-0a1b ended with 127: no python; it said last: no such module",
        ),
        ((), "its container site-1-0a1b was removed"),
    ],
    ids=str,
)
def test_why_a_container_ended_is_told(started, state, said):
    engine = FakeEngine()
    post = started(engine, image="site:1")
    post.open()
    engine.now = docker_engine.State(*state)
    assert post.problem() == said


@pytest.mark.parametrize(
    ("engine", "uid", "expected"),
    [
        ({}, 1000, ("1000:7", "")),
        ({}, 0, ("0:7", "")),
        ({"is_rootless": True}, 1000, ("0:0", "")),
        ({"is_rootless": True, "is_podman": True}, 1000, ("1000:7", "keep-id")),
    ],
)
def test_files_that_a_container_writes_are_the_accounts(started, monkeypatch, engine, uid, expected):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: 7)
    fake = FakeEngine(**engine)
    post = started(fake, image="site:1", parent_host="here")
    post.open()
    made = fake.containers["id"]
    assert (made["user"], made.get("userns_mode", "")) == expected


def test_no_engine_anywhere_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(docker_engine, "SOCKETS", (str(tmp_path / "none"),))
    with pytest.raises(docker_engine.EngineRefused) as refused:
        docker_engine.connect()
    assert "podman.socket" in refused.value.hint
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(docker_engine.EngineRefused, match="No container engine answers"):
        docker_engine.connect()


def test_a_parent_does_not_load_the_engines_client():
    words = "import sys; from clouddeploy_runtime.outposts import engines; engines.check('docker', {}); "
    words += "sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_a_container_that_cannot_be_removed_does_not_change_how_the_job_ended(started, monkeypatch, caplog):
    engine = FakeEngine()
    post = started(engine, image="site:1")
    post.open()

    def refuse(_):
        raise docker_engine.EngineRefused("The container of a job cannot be removed", why="it hangs")

    monkeypatch.setattr(engine, "remove", refuse)
    post.close()
    assert "it hangs" in caplog.text

"""What the operator is told about a machine, from what its bootstrap says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from clouddeploy.errors import RemoteCommandFailed, RemoteTimeout
from clouddeploy.remote import bootstrap
from clouddeploy.remote.host import Completed
from clouddeploy.remote.wheels import Wheelhouse

if TYPE_CHECKING:
    from pathlib import Path


class SayingHost:
    """Answers each action of the bootstrap with a given text, or raises it."""

    name = "site-1/machine"

    def __init__(self, **answers: str | Exception) -> None:
        self.answers = answers
        self.uploads: list[str] = []

    def run(self, argv, **_):
        answer = self.answers.get(argv[3], "")
        if isinstance(answer, Exception):
            raise answer
        return Completed(status=0, output=answer)

    def upload(self, _source, target, *, mode):
        self.uploads.append(target)
        return f"{mode:o}"


def facts(*, python: str = "/usr/bin/python3", boots: str = "yes", have: str = "*") -> str:
    return f"root=/opt/s\npython={python}\nversion=3.11\nmachine=x86_64\nboots={boots}\nhave={have}\n"


@pytest.fixture
def prepare(tmp_path: Path):
    (tmp_path / "wheels.tar").write_bytes(b"wheels")

    def prepare(host: SayingHost) -> bootstrap.Prepared:
        return bootstrap.prepare(
            host,
            project="study",
            site="site-1",
            data=None,
            wheelhouse_for=lambda _: Wheelhouse(tmp_path / "wheels.tar", "w"),
            timeout_s=5,
        )

    return prepare


def test_what_the_machine_has_is_not_sent_again(prepare):
    host = SayingHost(probe=facts(have="wheels-w.tar other"))
    assert prepare(host).have == {"wheels-w.tar", "other"}
    assert [target.split("-")[0] for target in host.uploads] == ["/opt/s/uploads/unit"]


def test_two_sites_never_share_a_service():
    names = {bootstrap.Release("", f"/opt/clouddeploy/{place}", "").service for place in ("heart/icu-1", "heart-icu/1")}
    assert names == {"clouddeploy-heart:icu-1.service", "clouddeploy-heart-icu:1.service"}


def test_machine_without_python_is_named(prepare):
    with pytest.raises(RemoteCommandFailed, match=r"no Python 3\.11"):
        prepare(SayingHost(probe=facts(python="")))


def test_machine_without_systemd_or_crontab_for_us_gets_a_warning_about_reboots(prepare, caplog):
    with caplog.at_level(logging.WARNING):
        prepare(SayingHost(probe=facts(boots="no")))
    assert "after a reboot" in caplog.text
    caplog.clear()
    prepare(SayingHost(probe=facts()))
    assert caplog.text == ""


def test_gpu_that_gets_no_driver_from_us_is_a_warning_and_one_whose_driver_fails_an_error(prepare, caplog):
    bare = facts().replace("have=", "gpu=bare\nhave=")
    with caplog.at_level(logging.WARNING):
        prepare(SayingHost(probe=bare, driver="sudo is not allowed there"))
    assert "NVIDIA GPU of site-1/machine does not work: sudo is not allowed there; install it there" in caplog.text
    caplog.clear()
    prepare(SayingHost(probe=bare, driver="much\nready\n"))
    assert caplog.text == ""
    with pytest.raises(RemoteCommandFailed, match="NVIDIA GPU") as failed:
        prepare(SayingHost(probe=bare, driver=RemoteCommandFailed("driver failed", status=1, tail="no network")))
    assert "no network" in failed.value.why
    assert "ubuntu-drivers install" in failed.value.hint


def test_machine_whose_cloud_init_does_not_end_is_said_to_be_at_it(prepare):
    with pytest.raises(RemoteTimeout) as ended:
        prepare(SayingHost(probe=RemoteTimeout("sh on site-1/machine did not end within 300 s")))
    assert ended.value.what == "probe on site-1/machine did not end within 300 s"
    assert "cloud-init" in ended.value.why

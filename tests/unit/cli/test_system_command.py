"""`system …` without a server: refusals, confirmations, waiting."""

from __future__ import annotations

import pytest
from clouddeploy_runtime.errors import ConnectionFailed, ExitCode

from clouddeploy.cli.system import system
from tests.unit.cli.admin_sessions import FakeSession


def test_the_status_shows_the_server_and_who_is_connected_and_kept_out(run):
    found = run(system, "status")["data"]
    assert found["server"] == {"name": "server1", "state": "serving", "jobs": []}
    assert [one["name"] for one in found["clients"]] == ["site-1", "site-2"]
    assert found["disabled"] == ["site-9"]
    text = run(system, "status", form="text")
    assert "site-1" in text
    assert "Disabled: site-9" in text


def test_the_status_of_clients_is_what_they_say_themselves(run):
    assert "RUNNING" in run(system, "status", "client", "site-1", form="text")
    assert run.session.sites.asked == [("check_status", ("site-1",))]


def test_resources_can_be_those_of_some(run):
    assert set(run(system, "resources")["data"]["resources"]) == {"site-1", "site-2"}
    assert set(run(system, "resources", "client", "site-2")["data"]["resources"]) == {"site-2"}
    assert run(system, "resources", "site-9", expected=ExitCode.BAD_INPUT)["error_code"] == "INVALID_TARGET"


@pytest.mark.parametrize(
    ("words", "running", "error"),
    [
        (("shutdown", "server"), (), "CLIENTS_RUNNING"),
        (("shutdown", "server"), ("j-1",), "JOB_RUNNING"),
        (("restart", "server"), ("j-1",), "JOB_RUNNING"),
        (("shutdown", "all"), ("j-1",), "JOB_RUNNING"),
        (("shutdown", "client", "site-7"), (), "INVALID_TARGET"),
        (("shutdown", "server", "site-1"), (), "INVALID_CONFIG"),
    ],
)
def test_what_would_disturb_somebody_is_refused(run, words, running, error):
    run.session.running = running
    code = ExitCode.BAD_INPUT if error.startswith("INVALID") else ExitCode.FAILED
    assert run(system, *words, "--yes", expected=code)["error_code"] == error
    assert run.session.calls == []


def test_a_client_is_stopped_while_jobs_run_elsewhere(run):
    run.session.running = ("j-1",)
    run(system, "shutdown", "client", "site-1", "--yes")
    assert run.session.calls == [("shutdown", "site-1")]
    assert set(run.session.clients) == {"site-2"}


def test_no_client_is_connected_says_so(run):
    run.session.clients.clear()
    envelope = run(system, "shutdown", "client", "--yes", expected=ExitCode.FAILED)
    assert envelope["error_code"] == "NO_CLIENTS"


def test_nothing_is_stopped_without_a_yes(run):
    run(system, "shutdown", "all", expected=ExitCode.BAD_INPUT)
    run(system, "disable-client", "site-1", expected=ExitCode.BAD_INPUT)
    assert run.session.calls == []


def test_all_are_stopped_clients_first(run):
    run(system, "shutdown", "all", "--yes")
    assert run.session.calls == [("shutdown", "@ALL"), ("shutdown", "server")]
    assert not run.session.is_up


def test_the_server_is_forced_though_clients_are_connected(run):
    run.session.running = ("j-1",)
    run(system, "shutdown", "server", "--force")
    assert run.session.calls == [("shutdown", "server", "force")]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (("server",), [("restart", "server")]),
        (("client",), [("restart", "@ALL")]),
        (("client", "site-1", "site-2"), [("restart", "site-1"), ("restart", "site-2")]),
        (("all",), [("restart", "@ALL"), ("restart", "server")]),
    ],
)
def test_a_restart_is_waited_for(run, words, calls):
    run(system, "restart", *words, "--yes")
    assert run.session.calls == calls


def test_who_does_not_obey_in_time_is_a_timeout(run):
    run.session.is_stuck = True
    for words in (("shutdown", "client", "site-1"), ("restart", "client"), ("restart", "server")):
        envelope = run(system, *words, "--yes", "--timeout", "0", expected=ExitCode.TIMEOUT)
        assert envelope["error_code"] == "TIMEOUT"
        run(system, *words, "--yes", "--no-wait")


def test_a_federation_without_clients_is_stopped(run):
    run.opening.fake = FakeSession(clients=())
    run(system, "shutdown", "all", "--yes")
    assert run.opening.fake.calls == [("shutdown", "server")]


def test_clients_are_kept_out_and_let_in(run):
    run(system, "disable-client", "site-1", "--yes")
    run(system, "enable-client", "site-1")
    assert run.session.calls == [("disable_client", "site-1"), ("enable_client", "site-1")]


def test_sites_are_asked_for_versions_machines_and_another_log(run):
    run(system, "version")
    run(system, "info", "server")
    run(system, "log-config", "DEBUG", "--site", "site-1", "--site", "site-2")
    assert run.session.sites.asked == [
        ("report_version", "all"),
        ("sys_info", "server"),
        ("configure_site_log", ("site-1", "site-2"), "DEBUG"),
    ]


def test_who_is_logged_in_can_be_seen_and_ended(run):
    assert run(system, "sessions")["data"]["sessions"][0]["user"] == "lead@x.org"
    assert run(system, "end-sessions", "lead@x.org", "--yes")["data"]["ended"] == 1


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_server_that_is_gone_before_it_has_answered_has_heard(run, monkeypatch, is_gone):
    """One that is busy cancels what it has not answered; one that is still there has not heard."""
    run.session.clients.clear()

    def shutdown(target, **_):
        run.session.is_gone = is_gone
        raise ConnectionFailed("The connection to the server is lost")

    monkeypatch.setattr(run.session, "shutdown", shutdown)
    real = run.session.system_status

    def status():
        if getattr(run.session, "is_gone", False):
            raise ConnectionFailed("The connection to the server is lost")
        return real()

    monkeypatch.setattr(run.session, "system_status", status)
    run(system, "shutdown", "server", "--yes", expected=ExitCode.OK if is_gone else ExitCode.CONNECTION)

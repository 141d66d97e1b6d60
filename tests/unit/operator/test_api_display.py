"""What people see of the Python API: in a terminal, in a notebook, as a picture, in the page."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import pytest
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.jobs.rounds import Round

from clouddeploy import api
from clouddeploy.api import display
from clouddeploy.api.meta import JobList, brief, full
from tests.integration.federation import Authority

ROOT = Path(__file__).parents[3]
EVIL = "<script>alert(1)</script>\x1b[2J"


class FakeAdmin:
    """A job that runs for two rounds."""

    def __init__(self):
        self.left = [
            {"job_id": "j-1", "name": EVIL, "status": "RUNNING", "revision": n, "rounds": n, "total_rounds": 2}
            for n in (1, 2)
        ]
        self.left += [dict(self.left[-1], status="FINISHED:COMPLETED", revision=3, metrics={"loss": 0.123456789})]
        self.timeout_s = 0
        self.sites = types.SimpleNamespace(reply_s=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, command, **_):
        assert command == "job_meta"
        return self.left.pop(0)

    def job_rounds(self, _job_id):
        return (
            Round(round=1, total_rounds=2, seconds=1.0, metrics={"loss": 2.0, "$x": 1.0}),
            Round(round=2, total_rounds=2, seconds=1.0, metrics={"loss": None, "accuracy": 0.5}),
        )


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("kits"), port=1).admin("root@org.example", "project_admin")


@pytest.fixture
def session(kit):
    one = api.Session("", kit, dial=lambda _kit, **_: FakeAdmin())
    one.try_connect(1)
    return one


def test_where_no_terminal_is_each_change_is_a_line(session, capsys):
    assert session.watch("j-1")["status"] == "FINISHED:COMPLETED"
    assert capsys.readouterr().out.splitlines() == [
        "RUNNING  round 1 of 2",
        "RUNNING  round 2 of 2",
        "FINISHED:COMPLETED  round 2 of 2  loss 0.123457",
    ]


def test_a_terminal_has_a_bar(session, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    session.watch("j-1")
    shown = capsys.readouterr().out
    assert "FINISHED:COMPLETED" in shown
    assert "━" in shown
    assert "\x1b[2J" not in shown


def test_a_notebook_has_one_table_that_changes(session, monkeypatch):
    shown = []

    class ZMQInteractiveShell:
        pass

    handle = types.SimpleNamespace(update=shown.append)
    module = types.ModuleType("IPython")
    module.get_ipython = ZMQInteractiveShell
    module.display = types.ModuleType("IPython.display")
    module.display.HTML = str
    module.display.display = lambda _html, **_: handle
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    session.watch("j-1")
    assert len(shown) == 3
    assert "FINISHED:COMPLETED" in shown[-1]
    assert "<script>" not in "".join(shown)
    assert "\x1b" not in "".join(shown)


def test_a_plain_python_is_no_notebook():
    assert not display.is_notebook()


@pytest.mark.parametrize(
    "value",
    [
        full(JobInfo("j-1", EVIL, JobStatus.ABORTED, reason=EVIL)),
        JobList([brief(JobInfo("j-1", EVIL, JobStatus.RUNNING)), full(JobInfo("j-2", EVIL, JobStatus.RUNNING))]),
        api.SystemInfo(
            api.ServerInfo(EVIL, None), [api.ClientInfo(EVIL, 1.0, EVIL, (EVIL,))], [api.JobInfo("j-1", EVIL)]
        ),
    ],
    ids=["job", "jobs", "system"],
)
def test_what_others_wrote_is_no_markup(value):
    shown = value._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "\x1b" not in shown


def test_a_session_shows_itself_in_short(session):
    assert repr(session) == "<Session of root@org.example at 127.0.0.1:1, study default>"
    assert "connected" in session._repr_html_()
    session.close()
    assert repr(session).endswith("closed>")
    assert "closed" in session._repr_html_()


def test_the_state_of_a_federation_can_be_read_as_text():
    info = api.SystemInfo(
        api.ServerInfo("serving", None), [api.ClientInfo("site-1", None)], [api.JobInfo("j-1", "hello")]
    )
    assert str(info).splitlines() == [
        "SystemInfo",
        "server_info:",
        "status: serving, start_time: unknown",
        "client_info:",
        "site-1(last_connect_time: unknown)",
        "job_info:",
        "JobInfo:",
        "  job_id: j-1",
        "  app_name: hello",
    ]


def test_the_printing_callback_prints_less_and_less(capsys):
    counter = {"count": 0}
    running = full(JobInfo("j-1", EVIL, JobStatus.RUNNING))
    for _ in range(5):
        assert api.basic_cb_with_print(None, "j-1", running, cb_run_counter=counter)
    shown = capsys.readouterr().out
    assert shown.count("'job_id': 'j-1'") == 3
    assert shown.endswith("..")
    assert api.basic_cb_with_print(None, "j-1", full(JobInfo("j-1", "x", JobStatus.COMPLETED)))
    assert "FINISHED:COMPLETED" in capsys.readouterr().out


def test_metrics_are_drawn_by_matplotlib(session):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = session.plot_metrics("j-1")
    assert [line.get_label() for line in axes.get_lines()] == ["loss", r"\$x", "accuracy"]
    only = session.plot_metrics("j-1", "accuracy", ax=axes.figure.add_subplot())
    assert list(only.get_lines()[0].get_xdata()) == [1, 2]


def test_without_matplotlib_it_says_what_to_install(session, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(api.CommandError) as caught:
        session.plot_metrics("j-1")
    assert caught.value.hint == "pip install 'clouddeploy[notebook]'"


def test_the_page_says_what_the_docstrings_say():
    script = runpy.run_path(str(ROOT / "scripts/api-page"))
    assert (ROOT / "docs/python-api.md").read_text(encoding="utf-8") == script["page"](), "run scripts/api-page"


def test_every_call_of_the_reference_is_there():
    names = """submit_job clone_job get_job_meta get_job_status list_jobs download_job_result list_job_components
        download_job_components abort_job delete_job monitor_job monitor_job_and_return_job_meta wait_for_job
        get_job_logs get_system_info get_client_job_status check_status report_resources report_version
        get_connected_client_list get_client_env restart shutdown shutdown_system remove_client
        disable_client enable_client set_timeout
        unset_timeout ls_target cat_target tail_target head_target grep_target tail_target_log head_target_log
        get_working_directory show_stats show_errors reset_errors configure_job_log configure_site_log register_study
        add_study_site remove_study_site remove_study list_studies show_study add_study_user remove_study_user
        do_app_command do_command get_available_apps_to_upload close try_connect"""
    assert [name for name in names.split() if not getattr(getattr(api.Session, name, None), "__doc__", "")] == []

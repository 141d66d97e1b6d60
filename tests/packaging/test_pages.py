"""The pages on the runtime say what the code says: keys, variables, states, exit codes, classes, lines of the log."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from clouddeploy_runtime import authorization, communication, jobs, settings, temporary_folder, tensor_memory
from clouddeploy_runtime import logging as runtime_logging
from clouddeploy_runtime.job import messages
from clouddeploy_runtime.job.__main__ import Exit
from clouddeploy_runtime.job.buffers import OFFLOAD
from clouddeploy_runtime.jobs import TRANSITIONS, JobStatus, components, known, spec
from clouddeploy_runtime.launchers.process import PASSED_ON
from clouddeploy_runtime.lifecycle import RESTART_STATUS
from clouddeploy_runtime.relay import splice
from clouddeploy_runtime.server import (
    commands,
    membership,
    open_tasks,
    participants,
    scheduler,
    submissions,
    uploads,
)
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.tls import Peer
from clouddeploy_runtime.wire import rpc

from tests.packaging.pages import FOLDER, documented_job, page, section, tables

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime/clouddeploy_runtime"
KIT_FILES = ROOT / "provision/clouddeploy_provision/kit_files"
_VARIABLE = re.compile(r"\b(?:CLOUDDEPLOY|NVFL)_[A-Z_]+\b")
_ANCHOR = re.compile(r"\]\(([a-z0-9-]+\.md)?#([^)]+)\)")


def looked_up(module):
    """The keys that a module asks a document for: words that it hands to a call."""
    found = set()
    for node in ast.walk(ast.parse((RUNTIME / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id == "float"):
            found |= {one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return {word for word in found if re.fullmatch(r"[A-Za-z_]{3,}", word)}


@cache
def said():
    """Every text of the runtime, in lower case; what is put into one is left out."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in RUNTIME.rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(value.lower() for value in constants if isinstance(value, str))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("jobs/spec.py", "job-format.md"),
        ("jobs/app_config.py", "job-format.md"),
        ("settings.py", "runtime.md"),
        ("communication.py", "runtime.md"),
    ],
)
def test_every_key_that_is_read_stands_in_the_page(module, name):
    text = page(name)
    assert {word for word in looked_up(module) if word not in text} == set()


def test_the_keys_of_resources_have_the_defaults_that_the_page_says():
    (table,) = tables(section("runtime.md", "local/resources.json"))
    found = {row[1].strip("`"): row[3].strip("`") for row in table}
    usual = Settings()
    for key, value in {
        "max_num_clients": usual.max_clients,
        "heart_beat_timeout": usual.silence_s,
        "max_jobs": usual.max_jobs,
        "num_of_gpus": usual.gpus,
        "mem_per_gpu_in_GiB": usual.gib_per_gpu,
        "expiration_period": usual.reservation_s,
    }.items():
        assert float(found[key]) == value


def test_every_environment_variable_stands_in_the_page():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*RUNTIME.rglob("*.py"), *KIT_FILES.glob("*.sh")))
    written = page("runtime.md")
    assert {name for name in (*_VARIABLE.findall(text), *PASSED_ON) if name not in written} == set()


@pytest.mark.parametrize(
    ("value", "unit", "line"),
    [
        (submissions.MAX_ARCHIVE_BYTES, 1 << 20, "| a job's archive; unpacked; files in it | {} MiB;"),
        (messages.MAX_FRAME, 1 << 10, "| metrics of one answer, with their names | {} KiB;"),
        (participants.RESTARTS, 1, "| starts of a crashed script | {} more,"),
        (scheduler.TRIES, 1, "| tries to start a job | {},"),
        (spec.REJOIN_S, 1, "| a site's return in a job | {} s (`rejoin_timeout`) |"),
        (splice.MAX_CONNECTIONS, 1, "It takes {} connections."),
        (commands.MAX_LOG_BYTES, 1 << 20, "| the log in `clouddeploy job log` | the last {} MiB |"),
        (commands.MAX_LISTED, 1, "| jobs in one list | the newest {} |"),
        (membership.HEARTBEAT_S, 1, "every {} s both ways"),
    ],
)
def test_a_limit_is_what_the_page_says(value, unit, line):
    assert line.format(f"{value / unit:g}") in " ".join(page("runtime.md").split())


@pytest.mark.parametrize(
    ("value", "unit", "line"),
    [
        (temporary_folder.LEAST_BYTES, 1 << 20, "| less than {} MiB are free |"),
        (uploads.TOGETHER_BYTES, 1 << 30, "less than {} GiB together, or one waits longer"),
        (uploads.TURN_S, 1, "one waits longer than {} s,"),
        (uploads.TURN_BYTES_S, 1e6, "its own bytes take at {} MB/s |"),
        (open_tasks.LEAST_BYTES, 1 << 20, "large as what it was asked, or {} MiB."),
        (rpc.CHUNK_BYTES, 1 << 20, "in messages of {} MiB"),
    ],
)
def test_a_limit_of_large_models_is_what_their_page_says(value, unit, line):
    assert line.format(f"{value / unit:g}") in " ".join(page("large-models.md").split())


def test_the_settings_of_large_models_are_read_as_their_page_says(tmp_path):
    text = re.search(r"```json\n(.*?)```", section("large-models.md", "The budget"), re.DOTALL)[1]
    (tmp_path / "resources.json").write_text(text)
    found = settings.load(tmp_path)
    assert (found.budget_gib, found.job_budget_gib, found.offloads_tensors) == (24, 8, False)
    assert (tensor_memory.SHARE, Settings().budget_gib) == (2, None)
    assert OFFLOAD in section("large-models.md", "On disk from the start")


def test_the_log_files_and_the_status_of_a_restart_stand_in_the_page():
    text = page("runtime.md")
    assert [name for name in (*runtime_logging.FILES.values(), *runtime_logging.FILES) if f"`{name}`" not in text] == []
    assert f"| {RESTART_STATUS} |" in text


def test_the_states_of_a_job_and_what_follows_each_stand_in_the_page():
    transitions, meanings = tables(section("job-format.md", "From submission to the end"))
    assert {row[0] for row in meanings} == {status.value for status in JobStatus}
    assert {row[0]: set(row[1].split(", ")) for row in transitions} == {
        status.value: {one.value for one in following} for status, following in TRANSITIONS.items() if following
    }


def test_the_exit_codes_of_a_jobs_process_stand_in_the_page():
    _, codes = tables(section("job-format.md", "Results"))
    assert {row[0] for row in codes} == {str(int(one)) for one in Exit}


def test_every_class_that_is_run_or_left_out_stands_in_the_page():
    text = section("job-format.md", "What runs")
    assert {path for path in known.ALL if path.rpartition(".")[2] not in text} == set()


def test_every_line_of_the_table_of_refusals_is_one_that_the_code_writes():
    (table,) = tables(section("runtime.md", "Registration"))
    lines = [line for row in table for line in re.findall("`([^`]+)`", row[0])]
    assert len(lines) > 20
    parts = {part.strip(" ,;()").lower() for line in lines for part in re.split(r"…|: | \d+ |this site's ", line)}
    assert {part for part in parts if part not in said()} == set()


def test_every_link_to_a_heading_leads_to_one():
    broken = []
    for path in sorted(FOLDER.glob("*.md")):
        for target, anchor in _ANCHOR.findall(path.read_text(encoding="utf-8")):
            headings = re.findall(r"^#+ (.*)$", page(target or path.name), re.MULTILINE)
            if anchor not in {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}:
                broken.append(f"{path.name}: {target}#{anchor}")
    assert broken == []


def test_the_examples_of_local_files_are_read_as_the_pages_say(tmp_path):
    text = re.search(r"```json\n(.*?)```", section("site-security.md", "Who may do what"), re.DOTALL)[1]
    policy = authorization.parse(json.loads(text))
    for name, right, expected in (("ann@uni.example", "submit_job", True), ("bob@uni.example", "submit_job", False)):
        asked = authorization.Request(user=Peer(name, "uni", "lead"), right=right, site_org="acme")
        assert policy.permits(asked) is expected
    levels = re.search(r"```\n(\{.*?)```", section("runtime.md", "How much is logged"), re.DOTALL)[1]
    (tmp_path / "log_config.json").write_text(levels)
    assert runtime_logging.load(tmp_path)[1] == ""
    proxy = re.search(r'`(\{"proxy".*?\})`', page("runtime.md"))[1]
    (tmp_path / communication.FILE).write_text(proxy)
    assert communication.load(tmp_path).proxy == "http://proxy.example:3128"


def test_the_job_on_the_page_is_one(tmp_path):
    folder = documented_job(tmp_path)
    found = jobs.load(folder)
    assert (found.name, found.min_clients, found.has_own_code("app")) == ("mean", 2, True)
    for side in ("server", "client"):
        components.check(folder / "app", side, Settings(), may_bring_code=True)

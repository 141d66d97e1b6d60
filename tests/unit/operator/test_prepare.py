"""`clouddeploy prepare`: what it makes of a kit, what it refuses, and that nothing gets lost."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import settings
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind

from clouddeploy.cli.main import cli
from clouddeploy.errors import ConfigError
from clouddeploy.prepare import preparing
from clouddeploy.prepare import record as records
from clouddeploy.prepare.errors import PrepareError
from clouddeploy.prepare.output import back_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from clouddeploy.prepare.kit import PreparedKit
    from clouddeploy.prepare.preparing import Prepared

PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("fl.example.com",), host="fl.example.com", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="fl.example.com", port=8002),
        Participant(Kind.CLIENT, "site-2", "org_b", host="fl.example.com", port=8002),
        Participant(Kind.ADMIN, "admin@example.com", "hub", role="project_admin", host="fl.example.com", port=8002),
    ),
)
DOCKER = {"runtime": "docker", "parent": {"docker_image": "registry:5000/site:1"}}


class Plain:
    """A runtime that adds one script."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def launcher_args(self, _kit: PreparedKit, _config: object) -> dict[str, object]:
        return {"network": "n"}

    def workspace(self, _kit: PreparedKit, _config: object) -> str:
        return "/ws/"

    def render(self, kit: PreparedKit, _config: object) -> dict[str, object]:
        kit.write("startup/start_docker.sh", "#!/bin/sh\n", 0o755)
        if self.error is not None:
            raise self.error
        return {"start_command": f"cd {kit.output}", "warnings": ["mind the gap"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Kits, not to be changed."""
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"x").result


@pytest.fixture
def kit(made, tmp_path) -> Callable[[str], Path]:
    """Returns a copy of a participant's kit, with a `config.yaml` for docker in it."""

    def copy(name: str = "site-1") -> Path:
        folder = shutil.copytree(made / name, tmp_path / name)
        (folder / "config.yaml").write_text(yaml.safe_dump(DOCKER))
        return folder

    return copy


def prepare(folder: Path, error: BaseException | None = None, **options: Any) -> Prepared:
    return preparing.prepare(folder, runtime=Plain(error), **options)


def digests(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "prepared" not in path.relative_to(folder).parts
    }


def components(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "local/resources.json").read_text())
    return {one["id"]: one for one in document["components"]}


def test_a_prepared_kit_starts_and_the_kit_itself_is_as_it_was(kit):
    folder = kit()
    before = digests(folder)
    found = prepare(folder)
    output = folder / "prepared/docker"
    assert digests(folder) == before
    assert kits.verify(output).participant == "site-1"
    assert found.document() == {
        "runtime": "docker",
        "role": "client",
        "name": "site-1",
        "output": str(output),
        "resources": str(output / "local/resources.json"),
        "study_runtime": str(output / "local/study_runtime.yaml"),
        "study_runtime_kept": False,
        "backup": None,
        "warnings": ["mind the gap"],
        "start_command": f"cd {output}",
    }
    assert sorted(path.name for path in output.parent.iterdir()) == ["docker"]
    assert output.stat().st_mode & 0o777 == 0o700
    assert (output / "startup/client.key").stat().st_mode & 0o777 == 0o600


def test_its_jobs_are_started_by_the_runtimes_launcher_and_judged_by_the_engine(kit):
    folder = kit()
    prepare(folder)
    output = folder / "prepared/docker"
    found = components(output)
    assert found["docker_launcher"]["args"] == {"network": "n"}
    assert not {"process_launcher", "resource_consumer"} & found.keys()
    read = settings.load(output / "local")
    assert (read.launcher, read.is_passthrough) == ("docker", True)
    assert json.loads((output / "local/resources.json.default").read_text())["components"], "it stays as it came"
    assert yaml.safe_load((output / "local/study_runtime.yaml").read_text()) == {"format_version": 2, "studies": {}}


def test_a_server_keeps_its_jobs_in_the_workspace_that_the_parent_sees(kit):
    folder = kit("server1")
    found = prepare(folder)
    document = json.loads((found.kit.output / "local/resources.json").read_text())
    assert components(found.kit.output)["job_manager"]["args"]["uri_root"] == "/ws/jobs-storage"
    assert document["snapshot_persistor"]["uri_root"] == "/ws/snapshot-storage"
    kept = (found.kit.server_host, found.kit.fed_learn_port, found.kit.admin_port, found.kit.org, found.kit.hosts[0])
    assert kept == ("fl.example.com", 8002, 8002, "hub", "server1")


def edit(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    document = json.loads((folder / "local/resources.json.default").read_text())
    change(document["components"])
    (folder / "local/resources.json").write_text(json.dumps(document))


def test_what_the_site_has_set_goes_on_and_a_launcher_of_its_own_that_gets_lost_is_told(kit):
    folder = kit()
    edit(folder, lambda found: found.append({"id": "mine", "args": {"a": 1}}))
    edit_args = {"process_launcher": {"confine": False}, "resource_manager": {"num_of_gpus": 2}}
    document = json.loads((folder / "local/resources.json").read_text())
    for one in document["components"]:
        one["args"] = edit_args.get(one["id"], one["args"])
    (folder / "local/resources.json").write_text(json.dumps(document))
    found = prepare(folder)
    assert "process_launcher of local/resources.json, with its settings, is replaced" in found.warnings[0]
    assert components(found.kit.output)["mine"]["args"] == {"a": 1}
    read = settings.load(found.kit.output / "local")
    assert (read.gpus, read.ignores_host, read.is_passthrough) == (2, True, False), "its cards are lent one by one"


def test_a_line_without_tls_is_asked_for_in_vain_and_common_files_are_refused(kit):
    folder = kit()
    file = folder / "local/comm_config.json"
    file.write_text(json.dumps({"internal": {"scheme": "tcp", "resources": {"connection_security": "clear"}}}))
    loose = {**DOCKER, "parent": {**DOCKER["parent"], "internal_connection_security": "clear"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(loose))
    assert sum("it stays TLS" in one for one in prepare(folder).warnings) == 2
    file.write_text(json.dumps({"internal": {"scheme": "shared-file"}}))
    with pytest.raises(PrepareError, match=r"internal\.scheme is 'shared-file'") as refused:
        prepare(folder)
    assert refused.value.error_code == "INVALID_KIT"


# Once more into the same folder.


def test_what_somebody_wrote_about_studies_is_kept_and_what_a_site_left_goes_on(kit):
    folder = kit()
    output = prepare(folder).kit.output
    (output / "local/study_runtime.yaml").write_text("format_version: 2\nstudies: {a: {}}\n")
    (output / "jobs").mkdir()
    (output / "jobs/log.txt").write_text("x")
    (output / "audit.jsonl").write_text("y")
    found = prepare(folder)
    assert (found.is_kept, found.backup) == (True, None)
    assert "studies: {a: {}}" in (output / "local/study_runtime.yaml").read_text()
    assert (output / "jobs/log.txt").read_text() + (output / "audit.jsonl").read_text() == "xy"
    assert prepare(folder).is_kept, "the third time too"
    assert kits.verify(output)
    assert [path.name for path in output.parent.iterdir()] == ["docker"]


def test_files_that_differ_are_kept_beside_it_and_no_others(kit):
    folder = kit()
    output = prepare(folder).kit.output
    (output / "local/privacy.json").write_text("{}")
    (output / "startup/start_docker.sh").write_text("#!/bin/sh\nmine\n")
    found = prepare(folder)
    assert found.backup is not None
    assert sorted(digests(found.backup)) == ["local/privacy.json", "startup/start_docker.sh"]
    assert not (output / "local/privacy.json").exists()
    assert (output / "startup/start_docker.sh").read_text() == "#!/bin/sh\n"


def test_what_is_kept_goes_into_no_folder_that_was_there(kit, tmp_path):
    """Keys are among it, and on a file system that many share the folder may be somebody else's."""
    place = prepare(kit()).kit.output
    earlier, now = records.read(place), datetime(2030, 1, 1, tzinfo=UTC)
    assert earlier is not None
    (tmp_path / "new").mkdir()
    found = [back_up(place, tmp_path / "new", earlier, now=now) for _ in range(3)]
    assert [one and one.name for one in found] == [f"docker.before-20300101T000000Z{end}" for end in ("", "-2", "-3")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PrepareError("no"), OSError(28, "No space left on device")])
def test_one_that_ends_halfway_leaves_the_earlier_output_alone(kit, error):
    folder = kit()
    output = prepare(folder).kit.output
    before = digests(output)
    with pytest.raises((KeyboardInterrupt, PrepareError)):
        prepare(folder, error)
    assert digests(output) == before
    assert [path.name for path in output.parent.iterdir()] == ["docker"]


@pytest.mark.parametrize("is_exchanged", [True, False])
def test_one_that_was_killed_while_folders_changed_places_is_finished_by_the_next(kit, is_exchanged):
    folder = kit()
    output = prepare(folder).kit.output
    shutil.copytree(output, output.with_name(".docker.changing"))
    holder = output.with_name(".docker.changing") if is_exchanged else output
    (holder / "audit.jsonl").write_text("y")
    prepare(folder)
    assert (output / "audit.jsonl").read_text() == "y"
    assert [path.name for path in output.parent.iterdir()] == ["docker"]


def test_one_that_was_killed_where_folders_cannot_change_places_is_taken_back(kit):
    folder = kit()
    output = prepare(folder).kit.output
    (output / "audit.jsonl").write_text("y")
    output.rename(output.with_name(".docker.old"))
    shutil.copytree(folder / "local", output.with_name(".docker.new"))
    prepare(folder)
    assert (output / "audit.jsonl").read_text() == "y"
    assert [path.name for path in output.parent.iterdir()] == ["docker"]


# What is refused.


def code(folder: Path, **options: Any) -> str:
    before = digests(folder)
    with pytest.raises(ConfigError) as refused:
        prepare(folder, **options)
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert digests(folder) == before
    return refused.value.error_code


def test_a_kit_that_is_none_or_was_changed_or_has_nothing_to_prepare_is_refused(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    assert code(tmp_path / "empty") == "INVALID_KIT"
    assert code(kit("admin@example.com")) == "UNSUPPORTED_KIT"
    folder = kit()
    (folder / "local/link").symlink_to("/etc/passwd")
    assert code(folder) == "INVALID_KIT"
    (folder / "local/link").unlink()
    (folder / "startup/start.sh").write_text("#!/bin/sh\n")
    assert code(folder) == "INVALID_KIT"


def test_a_configuration_that_is_missing_is_refused(kit, tmp_path):
    assert code(kit(), config=tmp_path / "no.yaml") == "CONFIG_NOT_FOUND"


def test_an_output_that_would_touch_the_kit_is_refused(kit, tmp_path):
    folder = kit()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("")
    places = [folder, folder.parent, folder / "startup", folder / "startup/x", folder / "local/y"]
    places += [tmp_path / "file", tmp_path / "link", tmp_path / "other", folder / "startup/.." / "."]
    assert {code(folder, target=place) for place in places} == {"INVALID_ARGS"}


def test_the_output_of_another_participant_is_refused(kit, tmp_path):
    prepare(kit("site-2"), target=tmp_path / "out")
    assert code(kit(), target=tmp_path / "out") == "INVALID_ARGS"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_what_another_account_has_put_there_does_not_go_on(kit, tmp_path):
    """On a file system that many share somebody may have been there first, with scripts for the site's jobs."""
    folder, output = kit(), tmp_path / "out"
    prepare(folder, target=output)
    (output / "local/study_runtime.yaml").write_text("studies: {default: {slurm: {setup: curl evil}}}")
    os.chown(output, 12345, 12345)
    assert code(folder, target=output) == "INVALID_ARGS"
    os.chown(output, 0, 0)
    (tmp_path / ".out.old").mkdir()
    os.chown(tmp_path / ".out.old", 12345, 12345)
    assert code(folder, target=output) == "DEPLOY_PREPARE_FAILED"
    assert (tmp_path / ".out.old").exists()
    (tmp_path / ".out.old").rmdir()
    assert prepare(folder, target=output).is_kept


def test_an_output_where_a_site_runs_is_refused(kit):
    folder = kit()
    output = prepare(folder).kit.output
    with (output / "pid.fl").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert code(folder) == "DEPLOY_PREPARE_FAILED"
    prepare(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"workspaceConfig": {"namespace": "n", "local": {"configMapName": "c"}, "startup": {}}}, "OUTPUT_STAGED"),
        ({"workspaceConfig": {"local": {}, "startup": {"secretName": "s"}}}, "OUTPUT_STAGED"),
        ([], "OUTPUT_STAGED"),
        ({"workspaceConfig": {"namespace": None, "local": {"configMapName": None}}}, ""),
    ],
)
def test_what_a_cluster_has_is_not_written_over(kit, values, expected):
    folder = kit()
    output = prepare(folder).kit.output
    (output / "helm_chart").mkdir()
    (output / "helm_chart/values.yaml").write_text(yaml.safe_dump(values))
    if expected:
        assert code(folder) == expected
    else:
        prepare(folder)


def test_a_runtime_that_adds_what_was_not_signed_fails(kit):
    class Careless(Plain):
        def render(self, kit: PreparedKit, config: object) -> dict[str, object]:
            kit.write("startup/more.sh", "")
            return super().render(kit, config)

    folder = kit()
    with pytest.raises(PrepareError, match=r"startup/more\.sh: was added"):
        preparing.prepare(folder, runtime=Careless())
    assert not (folder / "prepared/docker").exists()


# The command.


def run(*words: object) -> Result:
    before = signal.getsignal(signal.SIGINT)
    try:
        return CliRunner().invoke(cli, ["prepare", *(str(word) for word in words)])
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("words", [(), ("a", "--kit", "b"), ("a", "--output", "x", "--output", "y")])
def test_arguments_that_do_not_say_what_is_meant_are_refused(words):
    done = run(*words)
    assert done.exit_code == 2


@pytest.mark.parametrize("form", [("--output", "json"), ("--format", "json")])
def test_the_form_of_the_result_and_the_folder_may_both_be_named_output(kit, tmp_path, form):
    done = run("--kit", kit("admin@example.com"), "--output", tmp_path / "out", *form)
    envelope = json.loads(done.stdout)
    assert (done.exit_code, envelope["error_code"]) == (4, "UNSUPPORTED_KIT")


def test_the_command_says_what_it_made_and_how_to_go_on(kit, tmp_path):
    folder = kit()
    done = run(folder, "--output", tmp_path / "out", "--output", "json")
    data = json.loads(done.stdout)["data"]
    assert (data["runtime"], data["role"], data["output"]) == ("docker", "client", str(tmp_path / "out"))
    assert data["start_script"] == str(tmp_path / "out/startup/start_docker.sh")
    (tmp_path / "out/local/study_runtime.yaml").write_text("studies: {}")
    (tmp_path / "out/local/more.json").write_text("{}")
    said = run(folder, "--output", tmp_path / "out").stdout
    for part in (
        "client site-1 is ready for docker",
        "start command: ",
        "kept: local/study",
        f"{tmp_path}/out.before-",
    ):
        assert part in said

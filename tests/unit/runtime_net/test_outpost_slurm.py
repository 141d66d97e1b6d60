"""The launcher `slurm`: what it takes, what it submits, and what it says of a batch job; no scheduler is there."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from clouddeploy_runtime.launchers import BadLauncher
from clouddeploy_runtime.outposts import engines, slurm, slurm_batch, slurm_settings
from clouddeploy_runtime.outposts.post import CREDENTIAL, Errand
from clouddeploy_runtime.outposts.slurm_scheduler import SCRIPT, BatchJob, Scheduler, SlurmRefused, SlurmSlow, State
from clouddeploy_runtime.outposts.slurm_settings import SlurmSettings
from clouddeploy_runtime.study_runtime import Dataset, SecretMount, SlurmRuntime, StudyRuntime

PLAIN = {"sandbox": "none", "python_path": "/opt/venv/bin/python"}
OWNER = {"project": "example", "participant": "site-1"}


def settings(**more):
    return slurm_settings.parse({**PLAIN, **more})


def errand(folder, *, given=None, **more):
    run = folder / "job" / "run"
    run.mkdir(parents=True, exist_ok=True)
    (folder / "local").mkdir(exist_ok=True)
    values = {
        "kind": "slurm",
        "settings": {**engines.check("slurm", {**PLAIN, **(given or {})}), **OWNER},
        "job_id": "4711",
        "role": "trainer",
        "site": "site-1",
        "sites": ("site-1",),
        "app_dir": str(folder / "job" / "app"),
        "run_dir": str(run),
        "local": str(folder / "local"),
        **more,
    }
    return Errand(**values)


# What the launcher takes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sandbox", "docker"),
        ("python_path", "python3"),
        ("python_path", "/a,b"),
        ("image", "images/one.sif"),
        ("parent_host", "-x"),
        ("parent_host", "host name"),
        ("internal_port", 0),
        ("internal_port", "9000-8000"),
        ("internal_port", True),
        ("sbatch_directives", ["--wrap=id"]),
        ("sbatch_directives", {"wrap": "id"}),
        ("sbatch_directives", {"partition": "gpu\n#SBATCH --uid=0"}),
        ("sbatch_directives", {"account": "a b"}),
        ("sbatch_directives", {"time": True}),
        ("setup", ["module load"]),
        ("forward_env", ["A B"]),
        ("forward_env", ["PYTHONPATH"]),
        ("forward_env", ["CLOUDDEPLOY_ERRAND"]),
        ("executables", {"rm": "/bin/rm"}),
        ("executables", {"sbatch": "sbatch"}),
        ("submit_timeout", 0),
        ("poll_interval", float("inf")),
        ("pending_timeout", "600"),
        ("multi_node_port_range", "many"),
        ("unheard_of", 1),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(key, value):
    with pytest.raises(BadLauncher, match=f'"{key}.* of slurm_launcher'):
        engines.check("slurm", {**PLAIN, key: value})


def test_what_is_left_out_is_the_references_and_what_is_checked_is_taken_again():
    checked = engines.check("slurm", PLAIN)
    assert {key: checked[key] for key in checked if key.endswith(("timeout", "interval"))} == {
        "submit_timeout": 30.0,
        "query_timeout": 10.0,
        "cancel_timeout": 10.0,
        "poll_interval": 10.0,
        "pending_timeout": 600.0,
    }
    again = engines.check("slurm", json.loads(json.dumps(checked)))
    assert {**again, "forward_env": ()} == {**checked, "forward_env": ()}


def test_one_port_is_the_first_of_a_hundred_and_a_range_is_itself():
    assert settings().ports == tuple(range(8102, 8202))
    assert settings(internal_port=65500).ports[-1] == 65535
    assert settings(internal_port="9000-9001").ports == (9000, 9001)


@pytest.mark.parametrize(
    "wish",
    [
        {"partition": "gpu"},
        {"image": "one.sif"},
        {"nodes": 0},
        {"gpus_per_node": True},
        {"mem_per_node": "4G"},
        {"time": "1h\n"},
        {"time": "--wrap=id"},
        {"pending_timeout": 601},
        {"python_path": "/bin/sh"},
    ],
)
def test_a_job_gets_only_what_a_job_may_ask_for(wish):
    with pytest.raises(BadLauncher, match=next(iter(wish))):
        slurm_settings.wishes(wish, settings())


# What it submits


def planned(folder, *, wish=None, study=None, **given):
    one = settings(**given)
    wishes = slurm_settings.wishes(wish or {}, one)
    job = errand(
        folder, given=given, gpus=0, cpus=4, memory_gib=2.0, environment={"CUDA_VISIBLE_DEVICES": "7", "A": "b"}
    )
    return slurm_batch.plan(
        job, one, study or StudyRuntime(), wishes, folder=folder / "job" / "slurm", secrets={"TOKEN": "secret"}
    )


def test_options_are_single_words_and_the_script_is_a_file(tmp_path):
    given = {"sbatch_directives": {"partition": "cpu", "qos": "low"}, "setup": "module load python"}
    plan = planned(tmp_path, wish={"time": "1:00:00", "gpus_per_node": 2}, **given)
    job = tmp_path / "job"
    assert plan.options == (
        "--job-name=site-1-4711",
        f"--comment={slurm_batch.comment_of(OWNER)}",
        "--no-requeue",
        "--export=ALL",
        f"--chdir={job}/run",
        "--nodes=1",
        "--ntasks=1",
        "--ntasks-per-node=1",
        "--gres=gpu:2",
        "--cpus-per-task=4",
        "--mem=2048M",
        "--partition=cpu",
        "--qos=low",
        "--time=1:00:00",
        "--output=/dev/null",
        f"--error={job}/slurm/slurm.err",
    )
    assert plan.words[:2] == (f"{job}/slurm/setup.sh", "none")
    assert plan.words[3:] == (
        "-",
        "/opt/venv/bin/python",
        *("-P", "-m", "clouddeploy_runtime.outposts.far"),
        f"{job}/slurm/line.json",
    )
    assert "secret" not in " ".join((*plan.options, *plan.words))
    assert plan.launch.environment == {"TOKEN": "secret", "A": "b"}


def test_a_job_is_cut_off_from_the_kit_on_a_node_too(tmp_path):
    job = errand(tmp_path, hidden=("/kit",))
    one = settings()
    plan = slurm_batch.plan(
        job, one, StudyRuntime(), slurm_settings.wishes({}, one), folder=tmp_path / "slurm", secrets={}
    )
    assert plan.launch.hidden == ("/kit",)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "one.sif"
    path.touch()
    return str(path)


STUDY = StudyRuntime(
    datasets={"training": Dataset("/srv/training"), "scratch": Dataset("/srv/scratch", is_writable=True)},
    secret_mounts={"keys": SecretMount("/srv/keys", "/secrets")},
    slurm=SlurmRuntime(partition="gpu", setup="module load cuda"),
)


def test_apptainer_sees_the_jobs_folders_and_its_studys_data_and_nothing_else(tmp_path, image):
    plan = planned(tmp_path, study=STUDY, wish={"gpus_per_node": 1}, sandbox="apptainer", image=image)
    job = tmp_path / "job"
    assert plan.setup == "module load cuda"
    assert "--partition=gpu" in plan.options
    assert list(plan.words[4:]) == [
        *("apptainer", "exec", "--userns", "--containall", "--no-privs", "--no-eval"),
        *("--no-mount", "bind-paths,hostfs"),
        *("--bind", f"{job}/app:{job}/app:ro", "--bind", f"{job}/run:{job}/run:rw"),
        *("--bind", f"{job}/slurm:{job}/slurm:ro"),
        *("--bind", "/srv/training:/data/default/training:ro", "--bind", "/srv/scratch:/data/default/scratch:rw"),
        *("--bind", "/srv/keys:/secrets:ro"),
        *("--nv", "--pwd", f"{job}/run", image),
        *("/opt/venv/bin/python", "-P", "-m", "clouddeploy_runtime.outposts.far", f"{job}/slurm/line.json"),
    ]
    assert plan.launch.data_dir == "/data/default"
    assert plan.launch.writable == ("/data/default/scratch",)


def test_pyxis_gets_the_same_in_its_own_words(tmp_path, image):
    plan = planned(tmp_path, study=STUDY, sandbox="pyxis", image=image, executables={"srun": "/slurm/bin/srun"})
    job = tmp_path / "job"
    mounts = [f"{job}/app:{job}/app:ro", f"{job}/run:{job}/run", f"{job}/slurm:{job}/slurm:ro"]
    mounts += ["/srv/training:/data/default/training:ro", "/srv/scratch:/data/default/scratch", "/srv/keys:/secrets:ro"]
    assert list(plan.words[4:-5]) == [
        "/slurm/bin/srun",
        "--ntasks=1",
        f"--container-image={image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={job}/run",
        "--container-readonly",
        "--no-container-mount-home",
        "--no-container-entrypoint",
    ]


@pytest.mark.parametrize(
    ("study", "more", "why"),
    [
        (STUDY, {}, "has datasets"),
        (StudyRuntime(image="/one.sif"), {}, "an image"),
        (StudyRuntime(slurm=SlurmRuntime(sandbox="apptainer")), {}, "no image"),
        (StudyRuntime(slurm=SlurmRuntime(account="a b")), {}, "slurm.account"),
        (replace(STUDY, datasets={"a": Dataset("/srv/a:b")}), {"sandbox": "pyxis"}, "cannot be mounted"),
        (replace(STUDY, datasets={"a": Dataset("relative")}), {"sandbox": "pyxis"}, "cannot be mounted"),
        (replace(STUDY, secret_mounts={"a": SecretMount("/s", "/proc/1")}), {"sandbox": "pyxis"}, "cannot be at"),
        (StudyRuntime(), {"wish": {"nodes": 2}, "sandbox": "pyxis"}, "2 nodes"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, image, study, more, why):
    if "sandbox" in more:
        more = {**more, "image": image}
    with pytest.raises(BadLauncher, match=why):
        planned(tmp_path, study=study, **more)


def test_gpus_are_said_once_or_twice_the_same(tmp_path):
    one = settings()
    for wish, gpus in (({"gpus_per_node": 1}, 2), ({"nodes": 2}, 2)):
        with pytest.raises(BadLauncher, match="GPUs"):
            slurm_batch.plan(
                errand(tmp_path, gpus=gpus),
                one,
                StudyRuntime(),
                slurm_settings.wishes(wish, one),
                folder=tmp_path,
                secrets={},
            )


def test_batch_jobs_of_two_sites_of_one_account_are_told_apart():
    owners = [OWNER, {**OWNER, "participant": "site-2"}, {**OWNER, "project": "x"}, {**OWNER, "workspace_path": "/w"}]
    assert len({slurm_batch.comment_of(one) for one in owners}) == len(owners)


def test_a_job_on_several_nodes_runs_on_the_first_and_has_a_port_for_the_others(tmp_path):
    plan = planned(tmp_path, wish={"nodes": 2})
    assert {"--nodes=2", "--ntasks=2"} <= set(plan.options)
    assert plan.words[3] == "29400-30399"
    assert {"SLURM_JOB_NODELIST", "MASTER_PORT"} <= set(plan.launch.forwarded)


# The script


def run_script(*words, **variables):
    done = subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_sources_the_sites_lines_and_becomes_the_jobs_program(tmp_path):
    (tmp_path / "setup").write_text("MODULE=1\nexport MODULE\n")
    _, out, _ = run_script(str(tmp_path / "setup"), "none", "MODULE", "29400-29401", "env")
    assert "MODULE=1" in out.splitlines()
    assert "MASTER_PORT=29401" in out.splitlines()


def test_a_setup_that_fails_keeps_the_job_from_running(tmp_path):
    (tmp_path / "setup").write_text("false\n")
    assert run_script(str(tmp_path / "setup"), "none", "", "-", "echo", "ran") == (1, "", "")


def test_a_sandbox_gets_the_named_variables_alone(tmp_path):
    _, out, _ = run_script("-", "apptainer", "A,B", "-", "env", A="a b", C="c")
    assert "APPTAINERENV_A=a b" in out
    assert "APPTAINERENV_B" not in out
    assert "APPTAINERENV_C" not in out
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    _, out, _ = run_script("-", "pyxis", "A,B", "-", str(srun), "--ntasks=1", "python", A="a b", C="c")
    assert out.splitlines() == ["--export=A", "--container-env=A", "--ntasks=1", "python"]


def test_a_batch_job_that_slurm_starts_again_does_nothing():
    code, out, err = run_script("-", "none", "", "-", "echo", "ran", SLURM_RESTART_COUNT="1")
    assert (code, out) == (1, "")
    assert "started again" in err


# What Slurm says

ANSWERS = "JobId=12 JobName=x JobState={} Reason={} Dependency=(null) Requeue=0 BatchFlag=1 ExitCode={} Command=/x y"


@pytest.fixture
def programs(tmp_path):
    """Return a function that makes Slurm's commands; they note how they are called."""

    def make(**scripts):
        found = {}
        for name, script in scripts.items():
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\nenv > {tmp_path}/env\n{script}\n')
            path.chmod(0o755)
            found[name] = str(path)
        return Scheduler(settings(executables=found, submit_timeout=0.3))

    return make


def test_a_submission_has_a_small_environment_and_its_number(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "secret")
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert programs(sbatch="echo 12").submit(["--nodes=1"], ["-"]) == BatchJob("12")
    assert programs(sbatch="echo '12;east'").submit([], []) == BatchJob("12", "east")
    assert (tmp_path / "calls").read_text().splitlines()[0] == f"sbatch --parsable --nodes=1 {SCRIPT} -"
    got = (tmp_path / "env").read_text()
    assert "secret" not in got
    assert "SBATCH_PARTITION" not in got
    assert "SLURM_JOB_ID" not in got


def test_a_submission_ends_with_no_signal_to_its_site_and_is_not_made_where_a_job_writes(programs, tmp_path):
    programs(sbatch=f"cut -d' ' -f6 /proc/self/stat > {tmp_path}/session\npwd > {tmp_path}/place\necho 12").submit(
        [], []
    )
    assert int((tmp_path / "session").read_text()) != os.getsid(0)
    assert (tmp_path / "place").read_text() == "/\n"


def test_what_sbatch_says_is_said(programs):
    with pytest.raises(SlurmRefused, match="Invalid account"):
        programs(sbatch="echo 'sbatch: error: Invalid account\\033[2J' >&2; exit 1").submit([], [])
    with pytest.raises(SlurmRefused, match="no number"):
        programs(sbatch="echo Submitted").submit([], [])
    with pytest.raises(SlurmSlow, match=r"within 0\.3 s"):
        programs(sbatch="exec sleep 5").submit([], [])
    with pytest.raises(SlurmRefused, match="cannot be run"):
        Scheduler(settings(executables={"sbatch": "/nowhere/sbatch"})).submit([], [])


@pytest.mark.parametrize(
    ("word", "reason", "code", "phase"),
    [
        ("PENDING", "Nodes required for job are DOWN, DRAINED", "0:0", (True, False)),
        ("RUNNING", "None", "0:0", (False, False)),
        ("COMPLETING", "TimeLimit", "0:15", (False, False)),
        ("OUT_OF_MEMORY", "OutOfMemory", "0:125", (False, True)),
        ("NODE_FAIL", "NodeDown", "1:0", (False, True)),
    ],
)
def test_the_state_of_a_batch_job_is_read(programs, word, reason, code, phase):
    state = programs(scontrol=f"echo '{ANSWERS.format(word, reason, code)}'").state(BatchJob("12"))
    exit_code, signal = map(int, code.split(":"))
    assert state == State(word, reason, exit_code, signal)
    assert (state.is_waiting, state.has_ended) == phase


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def test_a_forgotten_batch_job_is_looked_up_in_the_accounts(programs):
    scheduler = programs(scontrol=FORGOTTEN, sacct="echo 'CANCELLED by 1000|0:15'")
    assert scheduler.state(BatchJob("12")) == State("CANCELLED", "CANCELLED by 1000", 0, 15)
    assert programs(scontrol=FORGOTTEN, sacct="exit 1").state(BatchJob("12")) == State()
    with pytest.raises(SlurmRefused, match="Unable to contact"):
        programs(scontrol="echo 'Unable to contact slurm controller' >&2; exit 1").state(BatchJob("12"))


def test_only_batch_jobs_with_the_sites_own_comment_are_its_own(programs, tmp_path):
    own = slurm_batch.comment_of(OWNER)
    rows = f"3|{own}\n4|\n5|{own}0\n6|x|{own}\n7_1|{own}\n"
    (tmp_path / "rows").write_text(rows)
    programs(squeue=f"cat {tmp_path}/rows", scancel="")
    found = {"squeue": str(tmp_path / "squeue"), "scancel": str(tmp_path / "scancel")}
    slurm.sweep({**engines.check("slurm", {**PLAIN, "executables": found}), **OWNER}, "site-1")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1:] == ["scancel --quiet 3"]
    assert f"--user={os.getuid()}" in calls[0]
    slurm.sweep({**engines.check("slurm", PLAIN), "project": "example"}, "site-1")  # nobody's: nothing is asked


# What it says of a job


class Fake:
    """A scheduler that answers with what it is told to."""

    def __init__(self, *states, left=()):
        self.states = list(states)
        self.left = list(left)
        self.cancelled = []

    def submit(self, options, words):
        self.submitted = (options, words)
        return BatchJob("12")

    def state(self, _job):
        one = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(one, Exception):
            raise one
        return one

    def cancel(self, job):
        self.cancelled.append(job.number)

    def commented(self, _comment, *, name=""):
        assert name == "site-1-4711"
        return self.left


def opened(folder, fake, *, has_called=False, **more):
    given = {"parent_host": "127.0.0.1", "poll_interval": 1e-9, **more}
    post = slurm.SlurmPost(errand(folder, given=given), fake)
    if not has_called:
        (post.folder / CREDENTIAL).touch()
    post.open()
    return post


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State("PENDING", "Priority"), ""),
        (State("RUNNING", "None"), ""),
        (SlurmRefused("Slurm refuses", why="Unable to contact slurm controller"), ""),
        (State("PENDING", "InvalidQOS"), "its batch job 12 would wait for ever: InvalidQOS"),
        (State("TIMEOUT", "TimeLimit", 0, 15), "its batch job 12 has ended: TIMEOUT, TimeLimit, signal 15"),
        (State("FAILED", "NonZeroExitCode", 3), "its batch job 12 has ended: FAILED, NonZeroExitCode, exit code 3"),
        (State("OUT_OF_MEMORY", "OutOfMemory"), "its batch job 12 has ended: OUT_OF_MEMORY, OutOfMemory"),
        (State("CANCELLED", "None"), "its batch job 12 has ended: CANCELLED"),
        (State(), "its batch job 12 is gone, and Slurm does not know how it ended"),
    ],
)
def test_what_became_of_a_batch_job_is_said_in_slurms_words(tmp_path, state, words):
    assert opened(tmp_path, Fake(state)).problem() == words


def test_a_batch_job_that_waits_too_long_is_named_with_slurms_reason(tmp_path):
    post = opened(tmp_path, Fake(State("PENDING", "Resources")), pending_timeout=1e-9)
    assert post.problem() == "its batch job 12 was not started within 1e-09 s: PENDING, Resources"


def test_what_it_said_last_is_part_of_the_reason_and_harmless(tmp_path):
    post = opened(tmp_path, Fake(State("FAILED", "NonZeroExitCode", 127)))
    (post.folder / slurm_batch.WORDS).write_bytes(b"exec: /opt/venv/bin/python: \x1b[2Jnot found\n")
    assert post.problem().endswith("python: \\x1b[2Jnot found")


def test_slurm_is_asked_no_more_often_than_the_site_wants_until_the_line_breaks(tmp_path):
    post = opened(tmp_path, Fake(State("FAILED", "NonZeroExitCode", 1)), poll_interval=3600)
    assert post.problem() == ""
    (post.folder / CREDENTIAL).unlink()
    assert "FAILED" in post.problem()


def test_the_folder_is_the_sites_alone_and_gone_afterwards(tmp_path):
    earlier = tmp_path / "job" / "slurm"
    earlier.mkdir(parents=True)
    (earlier / "setup.sh").write_text("of an earlier start")
    post = opened(tmp_path, Fake(State("COMPLETED", "None")), setup="module load python")
    assert post.folder == earlier
    assert post.folder.stat().st_mode & 0o777 == 0o700
    setup = post.folder / "setup.sh"
    assert (setup.read_text(), setup.stat().st_mode & 0o777) == ("module load python\n", 0o600)
    post.close()
    post.close()
    assert not post.folder.exists()


def test_a_batch_job_that_ends_by_itself_is_not_cancelled_and_one_that_does_not_is(tmp_path):
    leaves = Fake(State("RUNNING"), State("COMPLETED"))
    opened(tmp_path, leaves, has_called=True).close()
    assert leaves.cancelled == []
    waits = Fake(State("PENDING", "Priority"))
    opened(tmp_path, waits).close()
    assert waits.cancelled == ["12"]
    silent = Fake(SlurmRefused("Slurm refuses"))
    opened(tmp_path, silent).close()
    assert not (tmp_path / "job" / "slurm").exists()


def test_an_earlier_start_of_the_same_job_is_ended_first(tmp_path):
    fake = Fake(State("RUNNING"), left=[BatchJob("9")])
    opened(tmp_path, fake)
    assert fake.cancelled == ["9"]


def test_a_submission_without_an_answer_leaves_nothing(tmp_path):
    class Slow(Fake):
        def submit(self, *_):
            self.left = [BatchJob("13")]
            raise SlurmSlow("sbatch has not answered")

    fake = Slow(State())
    with pytest.raises(SlurmSlow):
        opened(tmp_path, fake)
    assert fake.cancelled == ["13"]


def test_a_job_outside_of_what_the_nodes_see_is_refused(tmp_path):
    with pytest.raises(BadLauncher, match="do not see"):
        slurm.SlurmPost(errand(tmp_path, given={"workspace_path": "/shared"}), Fake())


def test_a_secret_that_the_site_does_not_have_is_named(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "study_runtime.yaml").write_text(
        "studies: {default: {secret_env: {TOKEN: {source: NOT_SET_ANYWHERE}}}}"
    )
    post = slurm.SlurmPost(errand(tmp_path), Fake())
    with pytest.raises(BadLauncher, match="TOKEN"):
        post.open()


def test_in_an_allocation_the_site_is_where_slurm_says(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "127.0.0.1")
    host, bind = slurm._host("")
    assert (host != "127.0.0.1", bind) in {
        (True, ""),
        (False, ""),
    }  # a node's name that is this machine's alone is none
    assert slurm._host("127.0.0.1") == ("127.0.0.1", "127.0.0.1")
    assert slurm._host("::1") == ("::1", "::1")
    assert slurm._host("192.0.2.7") == ("192.0.2.7", "")
    assert slurm._host("2001:db8::1") == ("2001:db8::1", "::")


def test_the_script_is_part_of_the_package():
    assert SCRIPT.parent == Path(slurm.__file__).parent
    assert os.access(SCRIPT, os.X_OK)
    assert isinstance(settings(), SlurmSettings)

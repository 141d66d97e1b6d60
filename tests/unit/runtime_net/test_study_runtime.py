"""`local/study_runtime.yaml`: what the jobs of a study get, and that nothing in it is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clouddeploy_runtime import study_runtime
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.study_runtime import (
    BadStudyRuntime,
    Dataset,
    SecretMount,
    SecretVariable,
    SlurmRuntime,
    StudyRuntime,
)

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
format_version: 2
studies:
  lung:
    container: {image: registry:5000/train:1}
    datasets:
      scans: {source: /srv/scans}
      scratch: {source: claim-1, mode: rw}
    env: {OMP_NUM_THREADS: 4, NAME: x}
    secret_env:
      DB_PASSWORD: {source: study-db, key: password}
      TOKEN: {source: SITE_TOKEN}
    secret_mounts:
      ca: {source: study-ca, mount_path: /var/run/ca}
    pod_template: pods/gpu.yaml
    docker_kwargs: {shm_size: 8g}
    slurm:
      partition: gpu
      setup: |
        module load a
        module load b
      sandbox: apptainer
  empty:
"""


def of(local: Path, text: str, study: str = "lung") -> StudyRuntime:
    (local / study_runtime.FILE).write_text(text)
    return study_runtime.of(local, study)


def test_all_that_it_may_say_is_read(tmp_path):
    assert of(tmp_path, WHOLE) == StudyRuntime(
        image="registry:5000/train:1",
        datasets={"scans": Dataset("/srv/scans"), "scratch": Dataset("claim-1", is_writable=True)},
        env={"OMP_NUM_THREADS": "4", "NAME": "x"},
        secret_env={"DB_PASSWORD": SecretVariable("study-db", "password"), "TOKEN": SecretVariable("SITE_TOKEN")},
        secret_mounts={"ca": SecretMount("study-ca", "/var/run/ca")},
        pod_template=tmp_path / "pods/gpu.yaml",
        docker_kwargs={"shm_size": "8g"},
        slurm=SlurmRuntime(partition="gpu", setup="module load a\nmodule load b\n", sandbox="apptainer"),
    )
    assert study_runtime.place("lung", "scans") == "/data/lung/scans"


def test_a_study_that_is_not_there_gets_nothing_and_neither_does_one_without_a_file(tmp_path):
    assert study_runtime.of(tmp_path, "lung") == StudyRuntime()
    for study in ("empty", "other"):
        assert of(tmp_path, WHOLE, study) == StudyRuntime()
    assert of(tmp_path, "") == StudyRuntime()


def test_it_is_read_again_for_each_job(tmp_path):
    assert of(tmp_path, WHOLE).image
    assert not of(tmp_path, "studies: {}").image


def test_the_older_file_counts_where_the_new_one_is_not_there(tmp_path):
    (tmp_path / study_runtime.OLDER_FILE).write_text("default:\n  data: {source: claim, mode: rw}\n")
    found = study_runtime.of(tmp_path, "default")
    assert found == StudyRuntime(datasets={"data": Dataset("claim", is_writable=True)})
    assert of(tmp_path, "studies: {}", "default") == StudyRuntime()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[", "line 1:"),
        ("- a", "the file is no mapping"),
        ("format_version: 1", "format_version is 1, and this version reads 2"),
        ("study: {}", "the file has 'study', and may have format_version, studies"),
        ("studies: {a: {}, a: {}}", "'a' stands twice"),
        ("studies: {../x: {}}", "studies has '../x', which is no name"),
        ("studies: {1: {}}", "studies is no mapping of names"),
        ("studies: {a: {dataset: {}}}", "studies.a has 'dataset', and may have container, datasets,"),
        ("studies: {a: {datasets: {d: {source: /x, mode: rx}}}}", "studies.a.datasets.d has the mode 'rx'"),
        ("studies: {a: {datasets: {d: {mode: ro}}}}", "studies.a.datasets.d needs text as source"),
        ("studies: {a: {datasets: {d: {source: 1}}}}", "has 1 as source, which is no text"),
        ('studies: {a: {datasets: {d: {source: "a\\nb"}}}}', "which is not one line of text"),
        ("studies: {a: {datasets: {d/e: {source: x}}}}", "has 'd/e', which is no name"),
        ("studies: {a: {env: {A-B: x}}}", "studies.a.env sets 'A-B', which is no variable of jobs"),
        ("studies: {a: {env: {PYTHONPATH: x}}}", "sets 'PYTHONPATH'"),
        ("studies: {a: {env: {A: [x]}}}", "gives A the value ['x'], which is no text"),
        ("studies: {a: {secret_env: {LD_PRELOAD: {source: x}}}}", "sets 'LD_PRELOAD'"),
        ("studies: {a: {secret_env: {A: {source: x, value: y}}}}", "has 'value', and may have source, key"),
        ("studies: {a: {secret_mounts: {m: {source: x, mount_path: a}}}}", "has the mount_path 'a'"),
        ("studies: {a: {secret_mounts: {m: {source: x, mount_path: /data}}}}", "has the mount_path '/data'"),
        ("studies: {a: {pod_template: ../x.yaml}}", "names '../x.yaml', which is no file of local/"),
        ("studies: {a: {docker_kwargs: {volumes: {}}}}", "sets volumes, which is the launcher's"),
        ("studies: {a: {slurm: {sandbox: none2}}}", "has the sandbox 'none2'"),
        ("a: &a [*a]", "the file has 'a'"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_what_is_wrong_keeps_the_job_from_starting_and_is_named(tmp_path, text, expected):
    with pytest.raises(BadStudyRuntime) as refused:
        of(tmp_path, text, "a")
    assert expected in str(refused.value)
    assert (refused.value.exit_code, refused.value.error_code) == (ExitCode.BAD_INPUT, "BAD_STUDY_RUNTIME")


def test_a_file_that_is_too_large_or_no_file_is_refused(tmp_path):
    with pytest.raises(BadStudyRuntime, match="more than 1048576 bytes"):
        of(tmp_path, "#" * ((1 << 20) + 1))
    (tmp_path / study_runtime.FILE).unlink()
    (tmp_path / study_runtime.FILE).mkdir()
    with pytest.raises(BadStudyRuntime, match="Is a directory"):
        study_runtime.of(tmp_path, "a")

"""The pods of jobs: what they are made of, what their launcher takes, and what their state means."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import kubernetes_validate
import pytest
from clouddeploy_runtime import launchers
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.outposts import engines
from clouddeploy_runtime.outposts import kubernetes as outpost
from clouddeploy_runtime.outposts.kube import names, status
from clouddeploy_runtime.outposts.kube import settings as arguments
from clouddeploy_runtime.outposts.kube.pod import JobPod, merged
from clouddeploy_runtime.outposts.post import Errand
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.study_runtime import (
    BadStudyRuntime,
    Dataset,
    SecretMount,
    SecretVariable,
    StudyRuntime,
)

GIVEN = {"image": "registry.example/job:1", "workspace_pvc": "claim", "workspace_mount_path": "/ws"}
ERRAND = Errand(
    kind="k8s",
    settings=GIVEN,
    job_id="11112222-3333",
    role="trainer",
    site="Site 1",
    sites=("Site 1",),
    app_dir="/ws/jobs/1/app",
    run_dir="/ws/jobs/1/run",
    local="/kit/local",
    study="lung",
)


def pod_of(*, study=None, wishes=None, template=None, settings=None, **errand):
    own = arguments.read({**GIVEN, "project": "p", "participant": "Site 1", **(settings or {})})
    return JobPod(
        name="job-1",
        errand=dataclasses.replace(ERRAND, **errand),
        settings=own,
        wishes=arguments.wishes(wishes or {}),
        study=study or StudyRuntime(),
        template=template or {},
    )


def container_of(pod):
    (one,) = pod.manifest()["spec"]["containers"]
    return one


def mounts_of(pod):
    return {one["mountPath"]: one for one in container_of(pod)["volumeMounts"]}


STUDY = StudyRuntime(
    image="registry.example/study:2",
    datasets={"scans": Dataset("scans-claim"), "scratch": Dataset("scratch-claim", is_writable=True)},
    env={"A": "b"},
    secret_env={"TOKEN": SecretVariable("db", "password"), "OTHER": SecretVariable("db")},
    secret_mounts={"certs": SecretMount("study-certs", "/var/run/certs")},
)
MANY = {
    "plain": {},
    "a study": {"study": STUDY},
    "resources": {"gpus": 2, "cpus": 3, "memory_gib": 1.5},
    "wishes": {"wishes": {"cpu": "500m", "memory": "3Gi", "ephemeral_storage": "5Gi"}},
    "own account": {"settings": {"service_account": "jobs", "image_pull_secrets": ["registry"], "same_node": False}},
    "a template": {
        "template": {
            "metadata": {"labels": {"team": "a"}},
            "spec": {
                "nodeSelector": {"gpu": "a100"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
                "containers": [{"name": "job", "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}],
            },
        }
    },
}


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
def test_clusters_accept_every_pod_and_its_secret(version):
    for given in MANY.values():
        kubernetes_validate.validate(pod_of(**given).manifest(), version, strict=True)
    kubernetes_validate.validate(pod_of().secret(b"{}", "uid"), version, strict=True)


def test_a_pod_sees_its_jobs_folders_of_the_workspace_and_no_more():
    pod = pod_of(settings={"workspace_sub_path": "site-1"}, data_dir="/ws/data", code=("/ws/code", "/kit/code"))
    workspace = {path: one for path, one in mounts_of(pod).items() if one["name"] == "workspace"}
    assert {path: (one["subPath"], one.get("readOnly", False)) for path, one in workspace.items()} == {
        "/clouddeploy/app": ("site-1/jobs/1/app", True),
        "/clouddeploy/run": ("site-1/jobs/1/run", False),
        "/clouddeploy/code-0": ("site-1/code", True),
        "/clouddeploy/data": ("site-1/data", True),
    }
    assert pod.code() == ("/clouddeploy/code-0",)
    assert pod.data_dir() == "/clouddeploy/data"


def test_a_folder_that_is_not_in_the_workspace_is_refused():
    with pytest.raises(BadLauncher, match="/elsewhere/run"):
        pod_of(run_dir="/elsewhere/run").manifest()
    with pytest.raises(BadLauncher, match="/wsx/run"):
        pod_of(run_dir="/wsx/run").manifest()


def test_a_study_has_its_data_its_secrets_and_its_image():
    pod = pod_of(study=STUDY)
    container, mounts = container_of(pod), mounts_of(pod)
    assert container["image"] == "registry.example/study:2"
    assert mounts["/data/lung/scans"]["readOnly"]
    assert not mounts["/data/lung/scratch"]["readOnly"]
    assert mounts["/var/run/certs"]["readOnly"]
    assert pod.writable() == ("/data/lung/scratch",)
    variables = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]}
    assert variables["TOKEN"] == {"name": "db", "key": "password"}
    assert variables["OTHER"] == {"name": "db", "key": "OTHER"}
    claims = {
        one["persistentVolumeClaim"]["claimName"]: one["persistentVolumeClaim"].get("readOnly", False)
        for one in pod.manifest()["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims == {"claim": False, "scans-claim": True, "scratch-claim": False}


def test_the_jobs_image_comes_before_the_studys_and_that_before_the_sites():
    images = [
        container_of(pod_of(study=study, wishes=wishes))["image"]
        for study, wishes in (
            (None, {}),
            (STUDY, {}),
            (STUDY, {"image": "own:1"}),
        )
    ]
    assert images == ["registry.example/job:1", "registry.example/study:2", "own:1"]


def test_what_a_job_takes_is_asked_for_and_is_its_limit():
    found = container_of(pod_of(gpus=2, cpus=3, memory_gib=1.5))["resources"]
    assert found["requests"] == {"cpu": "3", "memory": "1536Mi", "nvidia.com/gpu": "2", "ephemeral-storage": "1Gi"}
    assert found["limits"] == {"memory": "1536Mi", "nvidia.com/gpu": "2", "ephemeral-storage": "1Gi"}


def test_a_template_adds_and_never_takes_away_what_keeps_a_job_in():
    template = {
        "spec": {
            "automountServiceAccountToken": True,
            "restartPolicy": "Always",
            "securityContext": {"runAsNonRoot": False, "supplementalGroups": [5]},
            "containers": [{"name": "job", "command": ["sh"], "securityContext": {"privileged": True}}],
            "nodeSelector": {"gpu": "a100"},
        }
    }
    spec = pod_of(template=template).manifest()["spec"]
    assert (spec["restartPolicy"], spec["automountServiceAccountToken"]) == ("Never", False)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["supplementalGroups"] == [5]
    assert spec["nodeSelector"] == {"gpu": "a100"}
    (container,) = spec["containers"]
    assert container["command"][1:4] == ["-P", "-m", "clouddeploy_runtime.outposts.far"]


def test_lists_of_things_with_names_are_joined_by_their_names():
    base = {"a": [{"name": "x", "v": 1}, {"name": "y"}], "b": [{"k": 1}], "c": [1], "d": 1}
    over = {"a": [{"name": "x", "w": 2}, {"name": "z"}], "b": [{"k": 2}], "c": [2], "e": 2}
    assert merged(base, over) == {
        "a": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}, {"name": "z"}],
        "b": [{"k": 1}, {"k": 2}],
        "c": [2],
        "d": 1,
        "e": 2,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, '"image"'),
        ({"workspace_mount_path": "ws"}, '"workspace_mount_path"'),
        ({"pending_timeout": 0}, '"pending_timeout"'),
        ({"parent_port": 65_500}, '"parent_port"'),
        ({"parent_ports": True}, '"parent_ports"'),
        ({"resources": {"requests": {"cpu": 1}}}, '"resources"'),
        ({"imgae": "x"}, "imgae"),
    ],
)
def test_a_wrong_argument_is_named(change, words):
    with pytest.raises(BadLauncher) as caught:
        engines.check("k8s", {**GIVEN, **change})
    assert words in f"{caught.value}"
    assert "local/resources.json" in caught.value.hint


def test_the_launcher_has_two_names(tmp_path):
    kit = SimpleNamespace(local=tmp_path, project="p", name="site-1")
    found = [launchers.made(Settings(launcher=name, launcher_args=GIVEN), kit) for name in ("k8s", "kubernetes")]
    assert found[0] == found[1]
    assert (found[0].kind, found[0].settings["participant"]) == ("k8s", "site-1")


def test_arguments_that_are_left_out_are_there():
    checked = engines.check("k8s", GIVEN)
    assert checked["pending_timeout"] == 120.0
    assert "project" not in checked
    assert outpost.check(dict(checked)) == checked


def test_a_wish_that_is_not_known_is_refused():
    with pytest.raises(BadLauncher, match="launcher_spec"):
        arguments.wishes({"hostNetwork": "true"})


@pytest.mark.parametrize(
    ("text", "problem"), [("[]", "is no pod"), ("{a: 1}", "is no pod"), ("spec: []", "mappings"), (": :", "template")]
)
def test_a_template_that_is_none_is_refused(tmp_path, text, problem):
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(BadStudyRuntime, match=problem):
        outpost._template(path)


def test_names_that_fit_stay_and_others_never_meet():
    assert names.named("site-1") == "site-1"
    found = {names.named(text) for text in ("Site-1", "site_1", "site.1", "1site", "é", "x" * 64, "x" * 65, "-", "a-")}
    assert len(found) == 9
    assert all(names._NAME.fullmatch(one) and len(one) <= 63 for one in found)
    assert len(names.named("y" * 200, names.MAX_RELEASE)) == names.MAX_RELEASE


def state(**parts):
    return {"status": {"phase": "Running", **parts}}


def of_container(**parts):
    return state(containerStatuses=[{"name": "job", "state": parts}])


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (state(), ""),
        ({}, ""),
        (of_container(running={}), ""),
        (of_container(waiting={"reason": "ContainerCreating"}), ""),
        (of_container(waiting={"reason": "ImagePullBackOff"}), ""),
        (of_container(waiting={"reason": "InvalidImageName", "message": "bad\nname"}), "InvalidImageName: bad name"),
        (of_container(terminated={"exitCode": 137, "reason": "OOMKilled"}), "OOMKilled"),
        (of_container(terminated={"exitCode": 137, "reason": "Error"}), "signal 9"),
        (of_container(terminated={"exitCode": 3, "reason": "Error"}), "ended with 3, Error"),
        (state(reason="Evicted", message="low on memory"), "Evicted: low on memory"),
        (
            state(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]),
            "EvictionBy",
        ),
        (state(phase="Failed"), "Failed"),
        ({"metadata": {"deletionTimestamp": "now"}, **state()}, "deleted"),
    ],
)
def test_the_end_of_a_pod_has_the_clusters_words(pod, words):
    found = status.ended(pod)
    assert bool(found) == bool(words)
    assert words in found


def test_what_keeps_a_pod_from_running_is_its_image_its_node_or_the_last_warning():
    unscheduled = state(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}])
    events = [{"type": "Normal", "reason": "n"}, {"type": "Warning", "reason": "FailedMount", "message": "no claim"}]
    assert status.hindrance(of_container(waiting={"reason": "ErrImagePull", "message": "m"}), []) == "ErrImagePull: m"
    assert status.hindrance(unscheduled, events) == "Unschedulable"
    assert status.hindrance(state(), events) == "FailedMount: no claim"
    assert status.hindrance(state(), []) == ""

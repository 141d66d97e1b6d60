"""The configuration of `clouddeploy prepare`: the reference's keys, and what is said of those that are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from clouddeploy.errors import ConfigError
from clouddeploy.prepare import config_file
from clouddeploy.prepare.config import DockerConfig, K8sConfig, SlurmConfig

if TYPE_CHECKING:
    from pathlib import Path

DOCKER = """
runtime: docker
parent:
  docker_image: registry.example.com:5000/site:2.8
  network: lab-network
  internal_connection_security: mtls
job_launcher:
  default_python_path: /usr/local/bin/python
  default_job_env:
    NCCL_P2P_DISABLE: 1
  default_job_container_kwargs:
    shm_size: 8g
    ipc_mode: host
"""
K8S = """
runtime: k8s
namespace: lab
server_service_name: fl-server
parent:
  docker_image: registry.example.com/site@sha256:aa
  parent_port: 8102
  workspace_pvc: ws
  workspace_mount_path: /var/tmp/nvflare/workspace
  python_path: /usr/local/bin/python3
  resources: {requests: {cpu: "2", memory: 8Gi}}
  pod_security_context: {}
  image_pull_secrets: [registry]
job_launcher:
  config_file_path: /etc/kube
  pending_timeout: 300
  default_python_path: /usr/local/bin/python3
  job_pod_security_context: {runAsUser: 1000}
  image_pull_secrets: []
"""
SLURM = """
runtime: slurm
parent:
  sbatch_directives: {partition: cpu, time: "7-00:00:00"}
  environment_setup: |
    module load python
job_launcher:
  sandbox: apptainer
  image: /shared/site.sif
  python_path: /opt/venv/bin/python
  parent_host: login1
  internal_port: 8102
  sbatch_directives: {partition: gpu, account: 42, qos: low, constraint: a100, reservation: r}
  setup: module load cuda
  forward_env: [HTTPS_PROXY]
  executables: {sbatch: /usr/bin/sbatch}
  submit_timeout: 30
  query_timeout: 10
  cancel_timeout: 10
  poll_interval: 10
  pending_timeout: 600
  multi_node_port_range: 29400-30399
"""


def read(tmp_path: Path, text: str) -> DockerConfig | K8sConfig | SlurmConfig:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return config_file.read(file)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert refused.value.error_code == "INVALID_CONFIG"
    return str(refused.value)


@pytest.mark.parametrize(("text", "kind"), [(DOCKER, DockerConfig), (K8S, K8sConfig), (SLURM, SlurmConfig)])
def test_every_key_of_the_reference_is_read(tmp_path, text, kind):
    found = read(tmp_path, text)
    assert isinstance(found, kind)
    for part, keys in yaml.safe_load(text).items():
        for key in keys if isinstance(keys, dict) else ():
            assert key in getattr(found, part).model_fields_set


def test_what_is_left_out_has_the_references_values(tmp_path):
    docker = read(tmp_path, "runtime: docker\nparent: {docker_image: x}")
    k8s = read(tmp_path, "runtime: k8s\nparent: {docker_image: x}")
    slurm = read(tmp_path, "runtime: slurm\njob_launcher: {sandbox: none, python_path: /p}")
    assert isinstance(docker, DockerConfig)
    assert docker.parent.network == "nvflare-network"
    assert docker.job_launcher.default_python_path == "/usr/local/bin/python"
    assert isinstance(k8s, K8sConfig)
    assert (k8s.namespace, k8s.server_service_name, k8s.parent.parent_port) == ("default", "nvflare-server", 8102)
    assert (k8s.parent.workspace_pvc, k8s.parent.resources) == ("nvflws", {"requests": {"cpu": "2", "memory": "8Gi"}})
    assert isinstance(slurm, SlurmConfig)
    jobs = slurm.job_launcher
    assert (jobs.internal_port, jobs.submit_timeout, jobs.query_timeout, jobs.cancel_timeout) == (8102, 30, 10, 10)
    assert (jobs.poll_interval, jobs.pending_timeout, jobs.multi_node_port_range) == (10, 600, "29400-30399")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parent: {}", "config.yaml:1: runtime: is missing (example: runtime: docker)"),
        ("runtime: podman", "config.yaml:1: runtime: is one of docker, k8s, slurm"),
        ("runtime: docker", "parent: is missing"),
        (
            DOCKER.replace("docker_image", "docker_imag"),
            "4: parent.docker_imag: unknown key; did you mean docker_image?",
        ),
        (DOCKER.replace("  network", "  zzz"), "parent.zzz: unknown key; there are docker_image, network,"),
        (DOCKER + "jobs: {}\n", "jobs: unknown key"),
        (DOCKER.replace("ipc_mode", "volumes"), "default_job_container_kwargs: sets volumes, which is the launcher's"),
        (DOCKER.replace("ipc_mode: host", "privileged: true"), "sets privileged, which is the launcher's"),
        (DOCKER.replace("NCCL_P2P_DISABLE", "'A B'"), "default_job_env: names a variable A B, which cannot be one"),
        (DOCKER.replace("registry.example.com:5000/site:2.8", "'-v /:/x'"), "is a reference to a container image"),
        (K8S.replace("8102", "'x'"), "parent.parent_port: input should be a valid integer"),
        (K8S.replace("namespace: lab", "namespace: La_b"), "namespace: is the name of a namespace"),
        (K8S.replace("/var/tmp/nvflare/workspace", "a/../b"), "workspace_mount_path: is an absolute path"),
        (K8S + "storage: {access_mode: ReadWriteOncePod}\n", "access_mode: input should be 'ReadWriteOnce' or"),
        (SLURM.replace("partition: gpu", "array: 1"), "job_launcher.sbatch_directives.array: unknown key"),
        (SLURM.replace("qos: low", 'qos: "a\\n#SBATCH --x"'), "sbatch_directives.qos: is text of one line"),
        (SLURM.replace('"7-00:00:00"', "1:00:00"), "parent.sbatch_directives.time: is text: put it into quotes"),
        (SLURM.replace("apptainer", "chroot"), "job_launcher.sandbox: input should be 'apptainer', 'pyxis' or 'none'"),
        (SLURM.replace("29400-30399", "9-1"), "multi_node_port_range: is a range of ports"),
        ("runtime: docker\nruntime: k8s", "appears twice"),
        ("[", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_was_meant(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text)


def test_everything_wrong_is_told_at_once(tmp_path):
    message = refusal(tmp_path, "runtime: slurm\njob_launcher: {sandbx: none}\nparent: {a: 1}")
    assert all(one in message for one in ("4 problem", "sandbx", "parent.a", "job_launcher.sandbox"))


def test_a_key_without_a_value_is_one_that_was_left_out(tmp_path):
    found = read(tmp_path, "runtime: slurm\nparent:\njob_launcher: {sandbox: none, python_path: /p, executables: }")
    assert isinstance(found, SlurmConfig)
    assert (found.parent, found.job_launcher.executables) == (None, {})

"""Kits for Kubernetes: what is rendered is what Helm renders, and what clusters of many versions accept."""

from __future__ import annotations

from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml

from clouddeploy.errors import ConfigError
from clouddeploy.prepare import chart_values, image_reference, kubernetes
from clouddeploy.prepare.config import K8sConfig
from clouddeploy.prepare.kit import PreparedKit
from clouddeploy.prepare.manifests import Objects, Release, rules

GOLDEN = Path(__file__).parents[2] / "golden" / "kubernetes"
VERSIONS = ("1.25", "1.28", "1.31", "1.34", "1.37")
IMAGE = "registry.example:5000/fl/site@sha256:" + "0123456789abcdef" * 4
CONFIGS = {
    "server-plain": ("server", {}),
    "server-aws": (
        "server",
        {"service": {"type": "LoadBalancer", "cloud": "aws", "address": "eipalloc-1,eipalloc-2"}},
    ),
    "server-azure": (
        "server",
        {"service": {"type": "LoadBalancer", "cloud": "azure", "address": "fl-ip", "resource_group": "network"}},
    ),
    "server-gcp": (
        "server",
        {
            "service": {
                "type": "LoadBalancer",
                "cloud": "gcp",
                "address": "203.0.113.7",
                "source_ranges": ["198.51.100.0/24"],
            }
        },
    ),
    "client-plain": ("client", {}),
    "client-own-claim-openshift": (
        "client",
        {
            "parent": {
                "workspace_pvc": "team-claim",
                "pod_security_context": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
                "image_pull_secrets": ["registry"],
            },
            "network_policy": False,
        },
    ),
}


def kit_of(folder, kind):
    root = folder / kind
    for name in ("startup", "local"):
        (root / name).mkdir(parents=True)
    (root / "startup" / "server.key").write_text("a key\n")
    (root / "local" / "custom").mkdir()
    (root / "local" / "custom" / "own.py").write_text("")
    (root / "local" / "resources.json").write_text("{}")
    return PreparedKit(
        root=root,
        output=Path("/prepared") / kind,
        kind=kind,
        name="fl.example.com" if kind == "server" else "Site_1",
        project="study",
        org="hub",
        server_name="fl.example.com",
        server_host="fl.example.com",
        fed_learn_port=8002,
        admin_port=8003,
    )


def config_of(more):
    parent = {"docker_image": IMAGE, **more.get("parent", {})}
    return K8sConfig.model_validate({"runtime": "k8s", "namespace": "fl", **more, "parent": parent})


@pytest.fixture(params=sorted(CONFIGS))
def rendered(request, tmp_path):
    kind, more = CONFIGS[request.param]
    kit, config = kit_of(tmp_path, kind), config_of(more)
    result = kubernetes.render(kit, config)
    return request.param, kit, config, result


def manifests_of(kit):
    return [yaml.safe_load(path.read_text()) for path in sorted((kit.root / "manifests").iterdir())]


def helm(kit, *, values=None, name):
    with helm_python.Chart.load(kit.root / "helm_chart") as chart:
        files = chart.render(values=values, name=name, namespace="fl")
    found = [one for path, text in files.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text)]
    return [one for one in found if one]


def identity(manifest):
    return manifest["kind"], manifest["metadata"]["name"]


def test_helm_finds_no_fault_in_the_chart(rendered):
    _, kit, _, _ = rendered
    found = helm_python.lint(kit.root / "helm_chart")
    assert not found.get("errors"), found


def test_the_manifests_are_what_helm_renders(rendered):
    _, kit, config, _ = rendered
    values = chart_values.made(kit, config)
    chart = yaml.safe_load((kit.root / "helm_chart" / "Chart.yaml").read_text())
    release = Release(values["name"], "fl", chart["name"], chart["appVersion"], manager="Helm")
    ours = {identity(one): one for one in Objects(values, release).all()}
    theirs = {identity(one): one for one in helm(kit, name=values["name"])}
    assert theirs == ours


STAGED = chart_values.staged(
    namespace="fl",
    local="own-local",
    startup="own-startup",
    local_items={"resources.json": "resources.json", "custom_own.py.1234": "custom/own.py"},
    startup_items={"server.key": "server.key"},
    digest="abcd",
)
CHANGES = {
    "staged": {"workspaceConfig": STAGED},
    "a tag": {"image": {"repository": "localhost:5000/a/b", "tag": "1.2", "digest": "", "pullPolicy": "Always"}},
    "nothing made": {
        "serviceAccount": {"create": False, "name": "given"},
        "rbac": {"create": False},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "persistence": {"workspace": {"create": False, "claimName": "theirs"}},
    },
    "all that may be": {
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/fl"}},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "fl", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "persistence": {"workspace": {"storageClassName": "fast"}},
        "networkPolicy": {
            "from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
            "jobEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        },
    },
    "free to go anywhere": {"networkPolicy": {"restrictEgress": False}},
}


def laid_over(values, change):
    return {
        **values,
        **{
            key: laid_over(values[key], value)
            if isinstance(value, dict) and isinstance(values.get(key), dict)
            else value
            for key, value in change.items()
        },
    }


@pytest.mark.parametrize("kind", ["server", "client"])
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_values_that_somebody_changes_mean_the_same_to_both(tmp_path, kind, change):
    kit, config = kit_of(tmp_path, kind), config_of({})
    kubernetes.render(kit, config)
    values = laid_over(chart_values.made(kit, config), CHANGES[change])
    chart = yaml.safe_load((kit.root / "helm_chart" / "Chart.yaml").read_text())
    release = Release("release", "fl", chart["name"], chart["appVersion"], manager="Helm")
    ours = {identity(one): one for one in Objects(values, release).all()}
    theirs = {identity(one): one for one in helm(kit, values=CHANGES[change], name="release")}
    assert theirs == ours


@pytest.mark.parametrize("version", VERSIONS)
def test_clusters_of_many_versions_accept_every_manifest(tmp_path, version):
    seen = set()
    for name in ("server-gcp", "client-own-claim-openshift", "client-plain"):
        kind, more = CONFIGS[name]
        kit = kit_of(tmp_path / name, kind)
        kubernetes.render(kit, config_of(more))
        for manifest in manifests_of(kit):
            kubernetes_validate.validate(manifest, version, strict=True)
            seen.add(manifest["kind"])
    assert seen == {
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }


def test_the_manifests_are_the_golden_ones(rendered):
    name, kit, _, _ = rendered
    found = "---\n".join(path.read_text() for path in sorted((kit.root / "manifests").iterdir()))
    golden = GOLDEN / f"{name}.yaml"
    assert found == golden.read_text()


def test_pods_keep_to_the_restricted_profile(rendered):
    _, kit, _, _ = rendered
    (deployment,) = [one for one in manifests_of(kit) if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["initContainers"], *pod["containers"]]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert container["image"] == IMAGE
        assert "memory" in container["resources"]["limits"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not [one for one in pod["volumes"] if "hostPath" in one]


def test_no_secret_may_be_read_changed_or_deleted():
    verbs = {resource: set(rule["verbs"]) for rule in rules() for resource in rule["resources"]}
    assert verbs["secrets"] == {"create"}
    assert all("*" not in one for one in verbs.values())


def test_the_kustomization_names_every_file_of_the_kit(rendered):
    _, kit, _, _ = rendered
    document = yaml.safe_load((kit.root / "kustomization.yaml").read_text())
    assert document["resources"] == [f"manifests/{path.name}" for path in sorted((kit.root / "manifests").iterdir())]
    (secret,), (config,) = document["secretGenerator"], document["configMapGenerator"]
    for entry in [*secret["files"], *config["files"]]:
        key, path = entry.split("=")
        assert (kit.root / path).is_file()
        assert "/" not in key


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("site", ("site", "", "")),
        ("registry:5000/img", ("registry:5000/img", "", "")),
        ("registry:5000/img:1.2", ("registry:5000/img", "1.2", "")),
        ("img@sha256:ab", ("img", "", "sha256:ab")),
        ("registry:5000/a/img:1@sha256:ab", ("registry:5000/a/img", "1", "sha256:ab")),
    ],
)
def test_a_reference_to_an_image_is_read_as_registries_do(reference, parts):
    found = image_reference.parse(reference)
    assert (found.repository, found.tag, found.digest) == parts


def test_an_image_by_its_tag_is_warned_of(tmp_path):
    kit = kit_of(tmp_path, "client")
    config = K8sConfig.model_validate({"runtime": "k8s", "parent": {"docker_image": "registry:5000/img"}})
    result = kubernetes.render(kit, config)
    assert "named by a tag" in str(result["warnings"])
    (deployment,) = [one for one in manifests_of(kit) if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry:5000/img:latest", "Always")


@pytest.mark.parametrize(
    "service", [{"address": "203.0.113.7", "cloud": "gcp"}, {"type": "LoadBalancer", "address": "203.0.113.7"}]
)
def test_an_address_without_its_load_balancer_is_refused(tmp_path, service):
    with pytest.raises(ConfigError):
        kubernetes.render(kit_of(tmp_path, "server"), config_of({"service": service}))

"""What the bundled builders add: archives, containers, cloud scripts, keys for homomorphic encryption."""

from __future__ import annotations

import dataclasses
import json
import logging
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from clouddeploy_provision import certificate_authority
from clouddeploy_provision import project as project_file
from clouddeploy_provision.builders import archive
from clouddeploy_provision.builders.catalogue import Custom, Step
from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import ProvisionReport

DATA = Path(__file__).parent / "data" / "reference"
ZIP = "clouddeploy_provision.builders.archive.ZipBuilder"
HE = "nvflare.lighter.impl.he.HEBuilder"
PASSWORD = "a pass phrase for everybody"


def with_builder(found: Project, path: str, **args) -> Project:
    return dataclasses.replace(found, builders=(*found.builders, Step(path, args)))


@pytest.fixture
def run(dummy, tmp_path):
    def _run(path: str, args: dict | None = None, found: Project = dummy, **options) -> ProvisionReport:
        changed = with_builder(found, path, **(args or {}))
        return provision(changed, tmp_path / "ws", passphrase=b"x", options=Options(**options))

    return _run


def restored(path: Path, password: str, folder: Path) -> Path:
    """Unpack an archive as its receiver does; return the kit."""
    pyzipper = pytest.importorskip("pyzipper")
    with pyzipper.AESZipFile(path) as opened:
        opened.setpassword(password.encode())
        for info in opened.infolist():
            target = Path(opened.extract(info, folder))
            target.chmod(info.external_attr >> 16)
    return folder / path.stem


def test_archives_hold_whole_kits_and_their_modes_and_only_their_password_opens_them(run, tmp_path):
    pyzipper = pytest.importorskip("pyzipper")
    report = run(ZIP, {"password": "generate"})
    passwords = json.loads((report.result.parent / "state" / "zip_passwords.json").read_text())
    assert set(passwords) == set(report.kits)
    assert len(set(passwords.values())) == len(passwords)
    assert all(len(password) >= 24 for password in passwords.values())
    for name, folder in report.kits.items():
        path = report.result / f"{name}.zip"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        back = restored(path, passwords[name], tmp_path / "received")
        assert kit.verify(back).participant == name
        for file in (one for one in folder.rglob("*") if one.is_file()):
            other = back / file.relative_to(folder)
            assert (other.read_bytes(), other.stat().st_mode) == (file.read_bytes(), file.stat().st_mode)
        with pyzipper.AESZipFile(path) as opened:
            opened.setpassword(b"another password")
            with pytest.raises(RuntimeError, match="password"):
                opened.read(f"{name}/startup/rootCA.pem")


def test_archives_are_aes_256_which_the_older_format_cannot_read(run):
    result = run(ZIP).result
    with zipfile.ZipFile(result / "site-1.zip") as opened:
        assert all(info.flag_bits & 1 for info in opened.infolist())
        with pytest.raises(NotImplementedError):
            opened.read("site-1/startup/client.key", pwd=b"x")
    # APPNOTE's AES extra field 0x9901: vendor AE, strength 3 is 256 bits.
    with zipfile.ZipFile(result / "site-1.zip") as opened:
        fields = {info.extra[:4] + info.extra[6:9] for info in opened.infolist()}
    assert fields == {b"\x01\x99\x07\x00AE\x03"}
    assert b"PRIVATE KEY" not in (result / "site-1.zip").read_bytes()


def test_passwords_are_kept_by_the_authority_and_shown_to_nobody(run, caplog):
    caplog.set_level(logging.DEBUG)
    report = run(ZIP)
    file = report.result.parent / "state" / "zip_passwords.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = caplog.text + repr(report) + "".join(report.warnings)
    assert not any(password in shown for password in json.loads(file.read_text()).values())
    assert any(str(file) in warning for warning in report.warnings)


def test_a_password_from_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_ZIP_PASSWORD", PASSWORD)
    report = run(ZIP, {"password": "environment"})
    assert kit.verify(restored(report.result / "site-1.zip", PASSWORD, tmp_path / "received")).participant == "site-1"
    assert not (report.result.parent / "state" / "zip_passwords.json").exists()


def test_a_password_that_was_asked_for(run, tmp_path, caplog):
    report = run(ZIP, {"password": "ask"}, zip_password=PASSWORD)
    assert kit.verify(restored(report.result / "site-1.zip", PASSWORD, tmp_path / "received")).participant == "site-1"
    assert PASSWORD not in caplog.text + repr(Options(zip_password=PASSWORD))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (("environment", None), "none was given"),
        (("ask", None), "none was given"),
        (("ask", "too short"), "it has 9 characters, 12 are the least"),
    ],
)
def test_no_archives_without_a_password_that_is_one(run, tmp_path, monkeypatch, answer, why):
    monkeypatch.delenv("CLOUDDEPLOY_ZIP_PASSWORD", raising=False)
    source, given = answer
    with pytest.raises(BuilderFailed) as caught:
        run(ZIP, {"password": source}, zip_password=given)
    assert caught.value.why == why
    assert archive.PASSWORD_VARIABLE in caught.value.hint
    assert {path.name for path in (tmp_path / "ws" / "example_project").iterdir()} == {"state"}


def test_a_compose_file_for_every_site_of_a_project(tmp_path):
    custom = Custom(DATA)
    found = project_file.load(DATA / "docker.yml", custom=custom)
    result = provision(found, tmp_path, passphrase=b"x", options=Options(custom=custom)).result
    services = yaml.safe_load((result / "compose.yaml").read_text())["services"]
    assert list(services) == ["mylocalhost", "site-1", "site-2"]
    assert services["mylocalhost"]["ports"] == ["8002:8002"]
    assert services["mylocalhost"]["networks"]["default"]["aliases"] == ["mylocalhost"]
    for name, service in services.items():
        assert service["image"] == "${IMAGE_NAME}"
        assert service["volumes"] == [f"./{name}:/kit/{name}"]
        assert service["command"] == [f"/kit/{name}/startup/start.sh", "--foreground"]
        assert (result / name / "startup" / "start.sh").exists()
        assert service.get("depends_on", ["mylocalhost"]) == ["mylocalhost"]
        assert (result / service["build"] / "Dockerfile").exists()
    assert (result / ".env").read_text() == "IMAGE_NAME=clouddeploy-site:latest\n"
    recipe = (result / "clouddeploy_compose" / "Dockerfile").read_text()
    assert recipe.startswith("FROM python:3.12-slim\n")
    assert "clouddeploy-runtime" in recipe
    assert (result / "clouddeploy_compose" / "requirements.txt").read_text() == "scikit-learn\n"


def test_containers_behind_a_relay_find_it(tmp_path):
    found = with_builder(project_file.load(DATA / "relays.yml"), "nvflare.lighter.impl.docker.DockerBuilder")
    result = provision(found, tmp_path, passphrase=b"x").result
    services = yaml.safe_load((result / "compose.yaml").read_text())["services"]
    assert services["server1"]["networks"]["default"]["aliases"] == ["server1", "fl.example.com"]
    assert services["relay-1"]["networks"]["default"]["aliases"] == ["relay-1", "relay-1.example.com"]
    found_order = {name: service.get("depends_on") for name, service in services.items()}
    assert found_order == {
        "server1": None,
        "relay-1": ["server1"],
        "relay-2": ["relay-1"],
        "site-1": ["relay-2"],
        "site-2": ["relay-1"],
        "site-3": ["server1"],
    }


@pytest.mark.parametrize(("folder", "why"), [(None, "no custom folder"), (DATA, "No such file")])
def test_requirements_of_an_image_that_cannot_be_read(run, folder, why):
    with pytest.raises(BuilderFailed, match=why):
        run("nvflare.lighter.impl.docker.DockerBuilder", {"requirements_file": "none.txt"}, custom=Custom(folder))


@pytest.mark.parametrize(("builder", "cloud"), [("aws.AWSBuilder", "aws"), ("azure.AzureBuilder", "azure")])
def test_cloud_scripts_are_signed_and_only_in_kits_of_machines(run, builder, cloud):
    kits = run(f"nvflare.lighter.impl.{builder}").kits
    having = {name for name, root in kits.items() if (root / f"startup/{cloud}_start.sh").exists()}
    assert having == {"server1", "site-1", "site-2"}
    assert kit.verify(kits["site-1"]).participant == "site-1"
    done = subprocess.run(["bash", "-n", kits["site-1"] / f"startup/{cloud}_start.sh"], check=False)
    assert done.returncode == 0


def test_arguments_without_a_value_mean_the_default(run):
    result = run("nvflare.lighter.impl.docker.DockerBuilder", {"base_image": None, "requirements_file": ""}).result
    assert "FROM python:3.12-slim" in (result / "clouddeploy_compose" / "Dockerfile").read_text()


def test_the_server_adds_what_it_cannot_read_and_every_client_can(run):
    tenseal = pytest.importorskip("tenseal")
    kits = run(HE).kits
    of_server = (kits["server1"] / "startup/server_context.tenseal").read_bytes()
    of_clients = [(kits[name] / "startup/client_context.tenseal").read_bytes() for name in ("site-1", "site-2")]
    assert of_clients[0] == of_clients[1]
    assert not (kits["lead@nvidia.com"] / "startup/client_context.tenseal").exists()
    assert stat.S_IMODE((kits["site-1"] / "startup/client_context.tenseal").stat().st_mode) == 0o600
    one, other = (tenseal.context_from(data) for data in of_clients)
    server = tenseal.context_from(of_server)
    assert one.is_private()
    assert not server.is_private()
    sent = [tenseal.ckks_vector(one, [1.0, 2.0]).serialize(), tenseal.ckks_vector(other, [0.5, 4.0]).serialize()]
    total = tenseal.ckks_vector_from(server, sent[0]) + tenseal.ckks_vector_from(server, sent[1])
    with pytest.raises(ValueError, match="secret_key"):
        total.decrypt()
    read = tenseal.ckks_vector_from(other, total.serialize()).decrypt()
    assert read == pytest.approx([1.5, 6.0], abs=1e-4)


def test_the_contexts_are_carried_over_and_new_clients_get_the_same(run, dummy, tmp_path):
    pytest.importorskip("tenseal")
    context = "startup/client_context.tenseal"
    first = run(HE)
    again = run(HE)
    assert set(again.kept) == set(first.kits)
    assert (again.kits["site-1"] / context).read_bytes() == (first.kits["site-1"] / context).read_bytes()
    newcomer = dataclasses.replace(dummy.clients[0], name="site-3", fqsn="site-3")
    third = run(HE, found=dataclasses.replace(dummy, participants=(*dummy.participants, newcomer)))
    assert third.created == ("site-3",)
    assert (third.kits["site-3"] / context).read_bytes() == (first.kits["site-1"] / context).read_bytes()


def test_whoever_was_shut_out_does_not_know_the_next_context(run, dummy, tmp_path):
    pytest.importorskip("tenseal")
    context = "startup/client_context.tenseal"
    first = run(HE)
    certificate_authority.revoke(tmp_path / "ws" / dummy.name / "state", ["site-2"], passphrase=b"x")
    left = dataclasses.replace(dummy, participants=tuple(one for one in dummy.participants if one.name != "site-2"))
    second, third = run(HE, found=left), run(HE, found=left)
    assert (second.kits["site-1"] / context).read_bytes() != (first.kits["site-1"] / context).read_bytes()
    assert (third.kits["site-1"] / context).read_bytes() == (second.kits["site-1"] / context).read_bytes()


def test_an_archive_has_what_a_builder_put_beside_startup_and_local(dummy, tmp_path):
    """Whatever is in the kit is handed out with it."""
    (tmp_path / "extra.py").write_text(
        "from clouddeploy_provision.spec import Builder\n"
        "class Extra(Builder):\n"
        "    def build(self, project, ctx):\n"
        "        ctx.add_file(project.clients[0], 'docs/deep/notice.txt', b'read me')\n"
    )
    steps = (Step(ZIP, {"password": "generate"}), Step("extra.Extra", {}))
    found = dataclasses.replace(dummy, builders=(*dummy.builders, *steps))
    options = Options(custom=Custom(tmp_path))
    report = provision(found, tmp_path / "ws", passphrase=b"x", options=options)
    password = json.loads((report.result.parent / "state" / "zip_passwords.json").read_text())["site-1"]
    kit_again = restored(report.result / "site-1.zip", password, tmp_path / "again")
    assert (kit_again / "docs/deep/notice.txt").read_text() == "read me"


def test_other_parameters_make_another_context_for_all(run):
    tenseal = pytest.importorskip("tenseal")
    run(HE)
    report = run(HE, {"poly_modulus_degree": 4096, "coeff_mod_bit_sizes": [40, 20, 40], "scale_bits": 20})
    assert set(report.reissued) == {"server1", "site-1", "site-2"}
    found = {
        tenseal.context_from((report.kits[name] / path).read_bytes()).global_scale
        for name, path in (
            ("server1", "startup/server_context.tenseal"),
            ("site-1", "startup/client_context.tenseal"),
            ("site-2", "startup/client_context.tenseal"),
        )
    }
    assert found == {2.0**20}


def test_parameters_that_do_not_fit_each_other_are_told_in_words(run):
    pytest.importorskip("tenseal")
    with pytest.raises(BuilderFailed) as caught:
        run(HE, {"poly_modulus_degree": 1024, "coeff_mod_bit_sizes": [60, 60, 60]})
    assert "the encryption context cannot be made" in caught.value.why
    assert "HEBuilder" in caught.value.what

"""From an empty folder to kits in the hands of their owners, without a browser."""

import io

import pytest
import pyzipper
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment import formats, packaging, request

from tests.unit.dashboard.visitors import unpack


def test_the_whole_workflow(world, tmp_path):
    root = world.configure()
    ann = world.person("ann", approved=False)
    assert ann.post("/clients", {"name": "site-1", "capacity": {"num_of_gpus": 2}}).status_code == 201
    refused = ann.post(f"/users/{ann.id}/blob")
    assert (refused.status_code, refused.json()["status"]) == (403, "not approved yet")
    for one in root.get("/users", state="pending").json()["user_list"]:
        assert root.patch(f"/users/{one['id']}", {"approval_state": 100}).status_code == 200
    (site,) = root.get("/clients", state="pending").json()["client_list"]
    assert root.patch(f"/clients/{site['id']}", {"approval_state": 100}).status_code == 200
    early = ann.post(f"/clients/{site['id']}/blob")
    assert (early.status_code, early.json()["code"]) == (409, "CONFLICT")
    assert root.patch("/project", {"frozen": True}).json()["project"]["frozen"]
    server = _kit(root.post("/servers/1/blob"), tmp_path / "server")
    site_kit = _kit(ann.post(f"/clients/{site['id']}/blob"), tmp_path / "site")
    person = _kit(ann.post(f"/users/{ann.id}/blob"), tmp_path / "person")
    assert kits.load(server).kind is kits.Kind.SERVER
    found = kits.load(site_kit)
    assert (found.name, found.host, found.port) == ("site-1", "fl.example.com", 8002)
    assert kits.load(person).name == "ann@org-a.example"
    assert root.get("/clients").json()["client_list"][0]["download_count"] == 1
    assert [one["user"] for one in world.audited("download_site_kit")] == ["ann@org-a.example"]


def test_a_site_that_comes_after_the_freeze_leaves_the_others_as_they_are(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    first = ann.site("site-1", approved_by=root)
    before = _kit(ann.post(f"/clients/{first}/blob"), tmp_path / "before")
    second = ann.site("site-2", approved_by=root)
    assert _kit(ann.post(f"/clients/{second}/blob"), tmp_path / "second").name == "site-2"
    after = _kit(ann.post(f"/clients/{first}/blob"), tmp_path / "after")
    assert _files(before) == _files(after)


def test_a_code_is_of_one_download_and_stored_nowhere(world, tmp_path):
    root = world.configure(freeze=True)
    first, second = (root.post("/servers/1/blob") for _ in range(2))
    assert first.headers["x-kit-code"] != second.headers["x-kit-code"]
    with pytest.raises(RuntimeError, match="Bad password"):
        unpack(first.content, second.headers["x-kit-code"], tmp_path)
    stored = [path.read_bytes() for path in world.desk.folder.rglob("*") if path.is_file()]
    assert not [one for one in stored if first.headers["x-kit-code"].encode() in one]
    with pyzipper.AESZipFile(io.BytesIO(first.content)) as archive:
        assert {info.wz_aes_strength for info in archive.infolist()} == {3}  # 256 bits


def test_a_program_may_bring_a_code_if_it_is_long(world, tmp_path):
    root = world.configure(freeze=True)
    assert root.post("/servers/1/blob", {"pin": "a1b2c3"}).status_code == 400
    answer = root.post("/servers/1/blob", {"pin": "0123456789abcdefXYZ"})
    assert "x-kit-code" not in answer.headers
    assert kits.load(unpack(answer.content, "0123456789abcdefXYZ", tmp_path / "kit")).name == "fl.example.com"


def test_a_reissue_revokes_what_was_handed_out(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=root)
    before = _kit(ann.post(f"/clients/{site}/blob"), tmp_path / "before")
    assert ann.post(f"/clients/{site}/reissue", {}).json()["revoked"]
    after = _kit(ann.post(f"/clients/{site}/blob"), tmp_path / "after")
    key = "startup/client.key"
    assert (before / key).read_bytes() != (after / key).read_bytes()
    states = [one["state"] for one in root.get("/certificates").json()["certificate_list"] if one["name"] == "site-1"]
    assert sorted(states) == ["revoked", "valid"]
    server = _kit(root.post("/servers/1/blob"), tmp_path / "server")
    assert (server / "local" / "crl.pem").exists()


def test_a_denied_site_loses_its_identity_and_may_come_back_with_another(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=root)
    _kit(ann.post(f"/clients/{site}/blob"), tmp_path / "before")
    assert root.patch(f"/clients/{site}", {"approval_state": -1}).status_code == 200
    (one,) = [one for one in root.get("/certificates").json()["certificate_list"] if one["name"] == "site-1"]
    assert one["state"] == "revoked"
    assert ann.post(f"/clients/{site}/blob").json()["code"] == "NOT_APPROVED"
    assert root.patch(f"/clients/{site}", {"approval_state": 100}).status_code == 200
    assert _kit(ann.post(f"/clients/{site}/blob"), tmp_path / "after").name == "site-1"


def test_a_site_keeps_its_own_key(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=root)
    made = request.make(formats.Site("trial", "site-1", "org_a", "client"), tmp_path / "there")
    answer = _enrol(ann, site, made.archive.read_bytes())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-public-key-sha256"] == made.public_key_sha256
    signed = tmp_path / "site-1.signed.zip"
    signed.write_bytes(answer.content)
    done = packaging.package(
        signed,
        tmp_path / "workspace",
        request_dir=made.folder,
        expected_fingerprint=answer.headers["x-rootca-fingerprint"],
    )
    kits.verify(done.kit)
    refused = ann.post(f"/clients/{site}/blob")
    assert refused.status_code == 409
    assert "private key was made where it runs" in refused.json()["message"]


def test_a_request_for_somebody_else_is_refused(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=root)
    for number, other in enumerate(
        [
            formats.Site("trial", "site-2", "org_a", "client"),
            formats.Site("trial", "site-1", "org_b", "client"),
            formats.Site("other", "site-1", "org_a", "client"),
            formats.Site("trial", "ann@org-a.example", "org_a", "admin", "lead"),
        ]
    ):
        made = request.make(other, tmp_path / str(number))
        assert _enrol(ann, site, made.archive.read_bytes()).status_code == 409
    assert _enrol(ann, site, b"no archive").status_code == 400


def test_a_request_ends_the_kit_that_was_handed_out(world, tmp_path):
    root = world.configure(freeze=True)
    ann = world.person()
    site = ann.site(approved_by=root)
    _kit(ann.post(f"/clients/{site}/blob"), tmp_path / "before")
    made = request.make(formats.Site("trial", "site-1", "org_a", "client"), tmp_path / "there")
    assert _enrol(ann, site, made.archive.read_bytes()).status_code == 200
    states = [one["state"] for one in root.get("/certificates").json()["certificate_list"] if one["name"] == "site-1"]
    assert sorted(states) == ["revoked", "valid"]


def test_results_never_run_out(world, tmp_path):
    root = world.configure(freeze=True)
    workspace = world.desk.folder / "workspace" / "trial"
    (workspace / "prod_00").rename(workspace / "prod_97")
    ann = world.person()
    for number in range(3):
        site = ann.site(f"site-{number}", approved_by=root)
        _kit(ann.post(f"/clients/{site}/blob"), tmp_path / str(number))
    assert [path.name for path in workspace.glob("prod_*")] == ["prod_03"]


def _enrol(program, site, content):
    return program.call(
        "POST", f"/clients/{site}/enrolment", content=content, headers={"content-type": "application/zip"}
    )


def _kit(answer, folder):
    assert answer.status_code == 200, answer.text
    kit = unpack(answer.content, answer.headers["x-kit-code"], folder)
    kits.verify(kit)
    return kit


def _files(kit):
    return {str(path.relative_to(kit)): path.read_bytes() for path in kit.rglob("*") if path.is_file()}

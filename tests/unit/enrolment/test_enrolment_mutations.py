"""Thousands of mutated archives and documents: each is refused with a code, or it still says the same.

Requests are signed by nobody but the key they ask for, so a changed one may well be a sound request of somebody else.
An answer is signed by the project's root: a changed one must never become a kit with other contents.
"""

import base64
import hashlib
import shutil
import stat

import msgspec
import pytest
from clouddeploy_runtime.enrolment import archive
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import KitError, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.often import often

MANY = settings(max_examples=often(60, nightly=250), deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(MANY, max_examples=often(30, nightly=100))
BYTES = st.binary(max_size=4) | st.sampled_from([b"\0", b"\xff" * 8, b"\n", b'"', b"{", b"-----", b"PK\1\2", b"../"])
EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.sampled_from([0, 1, 1, 1, 2, 8, 64]), BYTES), min_size=1, max_size=3
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
ODD = st.sampled_from(
    ["", "../x", "a\0b", "\ud7ff", "site-1\n", "x" * 300, "server", "admin", "0", "1", "/", "\x1b[2J"]
)


def edited(data, edits):
    """Replaces some bytes at some places; `edits`: place (wraps around), how many go, what comes instead."""
    for place, length, new in edits:
        where = place % (len(data) + 1)
        data = data[:where] + new + data[where + length :]
    return data


def contents(kit):
    return {
        str(path.relative_to(kit)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in kit.rglob("*")
    }


@pytest.fixture(scope="module")
def original(whole):
    """What was asked and answered, and the kit that comes of it."""
    kit = whole.package().kit
    saved = {path: path.read_bytes() for path in (whole.request_zip, whole.signed_zip)}
    saved |= {path: path.read_bytes() for path in whole.request_zip.parent.iterdir()}
    found = saved, contents(kit)
    shutil.rmtree(whole.folder / "workspace")
    return found


@pytest.fixture
def restored(whole, original):
    def restore():
        for path, content in original[0].items():
            path.write_bytes(content)

    restore()
    yield restore
    restore()


def package(whole, **given):
    """Packages; returns the kit's contents, or None when it was refused, and then nothing is left."""
    workspace = whole.folder / "workspace"
    try:
        kit = whole.package(workspace=workspace, **given).kit
        verify(kit, now=whole.now)
        return contents(kit)
    except (EnrolmentFault, KitError) as exc:
        assert exc.exit_code is ExitCode.BAD_INPUT  # noqa: PT017 - any of many
        assert not [path for path in workspace.rglob("*") if path.is_file()]
        return None
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        assert {path.name for path in whole.folder.iterdir()} <= {"ca", "site", "answers", "records"}


def approve(whole):
    """Approves; returns whether it was."""
    try:
        whole.approve(force=True)
    except EnrolmentFault as exc:
        assert exc.exit_code is ExitCode.BAD_INPUT  # noqa: PT017 - any of many
        return False
    return True


def mutated_der(pem, edits, label):
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    body = base64.encodebytes(edited(der, edits))
    return f"-----BEGIN {label}-----\n".encode() + body + f"-----END {label}-----\n".encode()


# What the project gets.


@MANY
@given(edits=EDITS)
def test_bytes_of_a_request(whole, original, restored, edits):
    restored()
    whole.request_zip.write_bytes(edited(whole.request_zip.read_bytes(), edits))
    if approve(whole):
        found = whole.members(whole.request_zip)
        restored()
        assert found == whole.members(whole.request_zip)


@MANY
@given(name=st.sampled_from(["request.json", "site.yaml", "site-1.csr"]), edits=EDITS)
def test_a_member_of_a_request(whole, restored, name, edits):
    restored()
    before = whole.members(whole.request_zip)[name]
    after = edited(before, edits)
    whole.replace(whole.request_zip, {name: after})
    # Only the signs between the members of request.json may be others.
    assert not approve(whole) or after == before or name == "request.json"


@MANY
@given(edits=EDITS)
def test_a_certificate_request_with_a_digest_that_fits(whole, restored, edits):
    restored()
    pem = whole.members(whole.request_zip)["site-1.csr"]
    changed = mutated_der(pem, edits, "CERTIFICATE REQUEST")
    whole.say_in_request(csr=changed)
    assert not approve(whole) or changed == mutated_der(pem, [], "CERTIFICATE REQUEST")


@MANY
@given(edits=EDITS)
def test_a_site_yaml_with_a_digest_that_fits(whole, restored, edits):
    restored()
    whole.say_in_request(site_yaml=edited(whole.members(whole.request_zip)["site.yaml"], edits))
    approve(whole)


@MANY
@given(data=st.data())
def test_a_field_of_request_json(whole, restored, data):
    restored()
    document = msgspec.json.decode(whole.members(whole.request_zip)["request.json"])
    field = data.draw(st.sampled_from([*document, "more"]))
    document[field] = data.draw(JSON | ODD)
    whole.replace(whole.request_zip, {"request.json": msgspec.json.encode(document)})
    approve(whole)


# What the site gets.


@MANY
@given(edits=EDITS)
def test_bytes_of_an_answer(whole, original, restored, edits):
    restored()
    whole.signed_zip.write_bytes(edited(whole.signed_zip.read_bytes(), edits))
    assert package(whole) in (None, original[1])


@MANY
@given(data=st.data(), edits=EDITS)
def test_a_member_of_an_answer(whole, original, restored, data, edits):
    restored()
    members = whole.members(whole.signed_zip)
    name = data.draw(st.sampled_from(sorted(members)))
    how = data.draw(st.sampled_from(["edited", "removed", "added", "renamed", "swapped"]))
    other = data.draw(st.sampled_from(sorted(members)))
    changes = {
        "edited": {name: edited(members[name], edits)},
        "removed": {name: None},
        "added": {data.draw(st.sampled_from(["kit/local/x", "x.crt", "kit/startup/x", "y"])): members[name]},
        "renamed": {name: None, f"{name}.crt": members[name]},
        "swapped": {name: members[other], other: members[name]},
    }
    whole.replace(whole.signed_zip, changes[how])
    assert package(whole) in (None, original[1])


@MANY
@given(data=st.data())
def test_a_field_of_signed_json_that_the_root_signed(whole, original, restored, data):
    """The authority itself says something strange: what comes of it is a kit like the original, or none."""
    restored()
    value = data.draw(JSON | ODD)
    inner = data.draw(st.sampled_from(["", "certificate", "ca_info", "hashes", "server", "kit"]))

    def change(said):
        place = said[inner] if inner else said
        place[data.draw(st.sampled_from([*place, "more"]))] = value

    whole.sign_again(change)
    assert package(whole) in (None, original[1])


@MANY
@given(edits=EDITS, name=st.sampled_from(["site-1.crt", "rootCA.pem"]))
def test_a_certificate_that_the_root_signed_for(whole, original, restored, edits, name):
    """Damaged certificates, with digests that fit: a fault of the project, and no traceback for the site."""
    restored()
    changed = mutated_der(whole.members(whole.signed_zip)[name], edits, "CERTIFICATE")
    field = {"site-1.crt": "certificate_sha256", "rootCA.pem": "rootca_sha256"}[name]
    digest = hashlib.sha256(changed).hexdigest()
    whole.sign_again(lambda said: said["hashes"].update({field: digest}), {name: changed})
    assert package(whole) in (None, original[1])
    assert package(whole, expected_fingerprint=None, trust_on_first_use=True) in (None, original[1])


@SLOW
@given(data=st.data(), edits=EDITS)
def test_a_file_of_the_kit_that_the_root_signed(whole, original, restored, data, edits):
    """A signed answer with a kit that is not sound: the kit's own manifest refuses it."""
    restored()
    members = whole.members(whole.signed_zip)
    name = data.draw(st.sampled_from([one for one in sorted(members) if one.startswith("kit/startup/")]))
    changed = edited(members[name], edits)
    digest = hashlib.sha256(changed).hexdigest()
    path = name.removeprefix("kit/")
    whole.sign_again(lambda said: said["kit"][path].update(sha256=digest), {name: changed})
    assert package(whole) in (None, original[1])


@MANY
@given(name=st.sampled_from(["request.json", "site.yaml", "site-1.key"]), edits=EDITS)
def test_a_file_of_the_request_that_stayed_here(whole, original, restored, name, edits):
    restored()
    path = whole.request_zip.parent / name
    path.write_bytes(edited(path.read_bytes(), edits))
    assert package(whole) in (None, original[1])


# Archives as such.


@MANY
@given(
    data=st.binary(max_size=200) | EDITS.map(lambda edits: edited(archive.write({"a": b"x", "b/c": b"y" * 99}), edits))
)
def test_any_bytes_are_an_archive_or_refused(whole, data):
    path = whole.folder / "ca" / "some.zip"
    path.write_bytes(data)
    try:
        members = archive.read(path, "SIGNED", is_expected=lambda _: True)
        assert all(isinstance(content, bytes) for content in members.values())
    except EnrolmentFault:
        pass
    finally:
        path.unlink()

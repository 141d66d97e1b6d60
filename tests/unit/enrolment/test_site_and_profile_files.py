"""The two files that people write: who asks, and where the server is."""

import contextlib

import pytest
from clouddeploy_provision import approval, site_file
from clouddeploy_provision.errors import ProjectFileError
from clouddeploy_runtime.enrolment import formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.often import often

CLIENT = "{name: site-1, type: client, org: hospital_a}"


def written(tmp_path, text):
    path = tmp_path / "some.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("participant", "expected"),
    [
        (CLIENT, formats.Site("hospitals", "site-1", "hospital_a", "client")),
        (
            "{name: lead@a.org, type: admin, org: a, role: lead}",
            formats.Site("hospitals", "lead@a.org", "a", "admin", "lead"),
        ),
        (
            "{name: fl.example.com, type: server, org: a, host_names: [10.0.0.1, fl]}",
            formats.Site("hospitals", "fl.example.com", "a", "server", "", ("10.0.0.1", "fl")),
        ),
        (
            "{name: server1, type: server, org: a, host_names: fl}",
            formats.Site("hospitals", "server1", "a", "server", "", ("fl",)),
        ),
    ],
)
def test_a_participant(tmp_path, participant, expected):
    path = written(tmp_path, f"api_version: 3\nname: hospitals\ndescription: x\nparticipants: [{participant}]\n")
    assert site_file.read(path) == expected
    assert site_file.parse(request.describe(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "exactly one participant"),
        ("name: hospitals", "exactly one participant"),
        (f"name: hospitals\nparticipants: [{CLIENT}, {CLIENT}]", "exactly one participant"),
        ("name: hospitals\nparticipants: [site-1]", "exactly one participant"),
        (f"participants: [{CLIENT}]", "project's name"),
        (f"name: 7\nparticipants: [{CLIENT}]", "project's name"),
        ("name: hospitals\nparticipants: [{name: site-1, type: client}]", "org"),
        ("name: hospitals\nparticipants: [{name: 7, type: client, org: a}]", "name"),
        ("name: hospitals\nparticipants: [{name: a, type: client, org: a, capacity: {}}]", "capacity"),
        ("name: hospitals\nparticipants: [{name: a, type: client, org: a, project: b}]", "project"),
        ("name: hospitals\nparticipants: [{name: a, type: client, org: a, listening_host: b}]", "some.yml:2"),
        ("name: hospitals\nparticipants: [{name: a, type: client, org: a, connect_to: b}]", "connect_to"),
        ("name: hospitals\nparticipants: [{name: a, type: server, org: a, fed_learn_port: 8002}]", "fed_learn_port"),
        (f"name: hospitals\nserver: {{host: evil}}\nparticipants: [{CLIENT}]", "server"),
        (f"name: hospitals\nbuilders: []\nparticipants: [{CLIENT}]", "builders"),
        (f"name: hospitals\nstudies: {{}}\nparticipants: [{CLIENT}]", "studies"),
        ("name: [", "not YAML"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_file_that_does_not_describe_one_participant(tmp_path, text, said):
    with pytest.raises(ProjectFileError) as caught:
        site_file.read(written(tmp_path, text))
    assert said in caught.value.why


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (formats.Site("hospitals", "site 1", "a", "client"), "name"),
        (formats.Site("hospitals", "-x", "a", "client"), "name"),
        (formats.Site("hospitals", "x\n", "a", "client"), "name"),
        (formats.Site("hospitals", "x" * 65, "a", "client"), "name"),
        (formats.Site("hospitals", "../x", "a", "client"), "name"),
        (formats.Site("hospitals", "fe80::1", "a", "server"), "name"),
        (formats.Site("hospitals", f"{'x' * 60}.example.com", "a", "server"), "name"),
        (formats.Site("hospitals", "lead", "a", "admin", "lead"), "name"),
        (formats.Site("hospitals", "x", "a", "relay"), "type"),
        (formats.Site("hospitals", "x", "a", "client", "lead"), "only an admin"),
        (formats.Site("hospitals", "a@b.org", "a", "admin"), "role"),
        (formats.Site("hospitals", "a@b.org", "a", "admin", "project_admin"), "role"),
        (formats.Site("hospitals", "a@b.org", "a", "admin", "Lead"), "role"),
        (formats.Site("hospitals", "x", "a", "client", "", ("x",)), "host_names"),
        (formats.Site("hospitals", "x", "a", "server", "", ("a b",)), "host_names"),
        (formats.Site("hospitals", "x", "a b", "client"), "org"),
        (formats.Site("hospitals", "x", "", "client"), "org"),
        (formats.Site("a/b", "x", "a", "client"), "project"),
        (formats.Site("..", "x", "a", "client"), "project"),
        (formats.Site("x" * 64, "x", "a", "client"), "project"),
    ],
)
def test_a_participant_that_cannot_be_asked_for(site, said):
    with pytest.raises(EnrolmentFault) as caught:
        request.check(site)
    assert caught.value.error_code == "SITE_FILE"
    assert said in caught.value.why


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(EnrolmentFault) as caught:
        request.check(formats.Site("a/b", "site 1", "a b", "client", "lead", ("x",)))
    assert caught.value.why.count(";") == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: hospitals}", formats.Profile("hospitals")),
        (
            "{name: hospitals, scheme: http, connection_security: tls, server: {host: 10.0.0.1, fed_learn_port: 8002}}",
            formats.Profile("hospitals", formats.ServerProfile("10.0.0.1", 8002), "http", "tls"),
        ),
        (
            "{name: hospitals, server: {host: 'fe80::1', name: server1, fed_learn_port: 1, admin_port: 65535}}",
            formats.Profile("hospitals", formats.ServerProfile("fe80::1", 1, 65535, "server1")),
        ),
    ],
)
def test_a_profile(tmp_path, text, expected):
    assert approval.read_profile(written(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "object"),
        ("[]", "object"),
        ("{server: {host: x, fed_learn_port: 1}}", "name"),
        ("{name: a/b}", "a/b"),
        ("{name: ''}", "name"),
        ("{name: 7}", "str"),
        ("{name: p, colour: red}", "colour"),
        ("{name: p, scheme: udp}", "scheme"),
        ("{name: p, connection_security: none}", "connection_security"),
        ("{name: p, server: {host: x}}", "fed_learn_port"),
        ("{name: p, server: {fed_learn_port: 1}}", "host"),
        ("{name: p, server: {host: 'a b', fed_learn_port: 1}}", "a b"),
        ("{name: p, server: {host: x, fed_learn_port: '1'}}", "int"),
        ("{name: p, server: {host: x, fed_learn_port: 65536}}", "65536"),
        ("{name: p, server: {host: x, fed_learn_port: 1, admin_port: 0}}", "port 0"),
        ("{name: p, server: {host: 'fe80::1', fed_learn_port: 1}}", "server.name"),
        ("{name: p, server: {host: x, name: 'fe80::1', fed_learn_port: 1}}", "fe80::1"),
        ("!!bool maybe", "YAML"),
        ("!!int ''", "YAML"),
        ("!!timestamp x", "YAML"),
        ("[" * 10_000, "YAML"),
        ("&a {name: *a}", "str"),
        (b"\xff", "YAML"),
        (b"x" * (65 << 10), "64 KiB"),
    ],
)
def test_a_profile_that_no_kit_could_be_made_from(tmp_path, text, said):
    with pytest.raises(EnrolmentFault) as caught:
        approval.read_profile(written(tmp_path, text))
    assert caught.value.error_code == "PROFILE_INVALID"
    assert said in caught.value.why


def test_a_profile_that_is_not_there(tmp_path):
    with pytest.raises(EnrolmentFault) as caught:
        approval.read_profile(tmp_path / "none.yml")
    assert caught.value.why == "No such file or directory"


PROFILE = (
    b"name: hospitals\nscheme: grpc\nserver:\n  host: fl.example.com\n  fed_learn_port: 8002\n  admin_port: 8003\n"
)
SITE = (
    b"name: hospitals\nparticipants:\n  - name: site-1\n    type: client\n    org: hospital_a\n    host_names: [a, b]\n"
)
SCRAPS = [
    b"!!bool x",
    b"!!int ''",
    b"&a",
    b"*a",
    b"{",
    b"[",
    b"- ",
    b"? ",
    b": ",
    b"\n",
    b"\xff",
    b"\0",
    b"0x",
    b"1e999",
]
SCRAPS += [
    b"2026-13-99",
    b"!!binary x",
    b"!!python/object:x",
    b"<<: ",
    b"null",
    b"~",
    b"'",
    b'"\\ud800"',
    b"%",
    b"---\n",
]
EDITS = st.lists(
    st.tuples(st.integers(0, 130), st.integers(0, 12), st.sampled_from(SCRAPS) | st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)
MANY = settings(
    max_examples=often(80, nightly=300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def edited(data, edits):
    for place, length, scrap in edits:
        data = data[:place] + scrap + data[place + length :]
    return data


@MANY
@given(EDITS)
def test_any_profile_is_read_or_refused(tmp_path, edits):
    path = written(tmp_path, edited(PROFILE, edits))
    with contextlib.suppress(EnrolmentFault):
        approval.check_profile(approval.read_profile(path))


@MANY
@given(EDITS)
def test_any_site_file_is_read_or_refused(tmp_path, edits):
    data = edited(SITE, edits)
    with contextlib.suppress(ProjectFileError, EnrolmentFault):
        site = site_file.read(written(tmp_path, data))
        assert site_file.parse(request.describe(site)) == site
    with contextlib.suppress(ValueError):
        site_file.parse(data)

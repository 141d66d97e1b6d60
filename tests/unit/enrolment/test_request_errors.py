"""What can be wrong with a request, an authority or a profile: each has an error code of its own."""

import base64
import re
import shutil
from datetime import timedelta
from pathlib import Path

import clouddeploy_provision
import msgspec
import pytest
from clouddeploy_provision import approval, certificate_authority
from clouddeploy_runtime import enrolment as package
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import errors, formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.errors import ExitCode

OTHER = formats.Site("hospitals", "site-2", "hospital_b", "client")
SITUATIONS = []


def situation(code, *, after="approved"):
    """Registers a situation that must end in this code; `after`: how far enrolment had come."""

    def register(function):
        SITUATIONS.append(pytest.param(code, after, function, id=f"{code}-{function.__name__.removeprefix('s_')}"))
        return function

    return register


def exchange(one, member):
    """Puts a member of another request into the request."""
    other = one.members(one.ask(OTHER).archive)
    one.replace(one.request_zip, {member: other[member.replace("site-1", "site-2")]})


# The request.


@situation("SITE_FILE", after="init")
def s_a_role_that_is_not_given_out_by_request(one):
    one.ask(formats.Site("hospitals", "root@a.org", "hospital_a", "admin", "project_admin"))


@situation("SITE_FILE", after="asked")
def s_a_site_yaml_with_two_participants(one):
    text = b"name: hospitals\nparticipants: [{name: a, type: client, org: o}, {name: b, type: client, org: o}]\n"
    one.say_in_request(site_yaml=text)
    one.approve()


@situation("SITE_FILE", after="asked")
def s_a_site_yaml_that_is_not_yaml(one):
    one.say_in_request(site_yaml=b"!!bool maybe")
    one.approve()


@situation("SITE_FILE", after="asked")
def s_a_site_yaml_that_names_its_project_twice(one):
    one.say_in_request(
        site_yaml=b"name: hospitals\nparticipants: [{name: site-1, type: client, org: hospital_a, project: other}]\n"
    )
    one.approve()


@situation("OUTPUT_DIR_EXISTS", after="asked")
def s_a_second_request_would_throw_the_first_key_away(one):
    one.ask()


@situation("OUTPUT_DIR_EXISTS", after="init")
def s_even_force_replaces_no_folder_that_is_not_a_requests(one):
    (one.folder / "site" / "site-1").mkdir(parents=True)
    one.ask(force=True)


@situation("OUTPUT_DIR_EXISTS")
def s_a_second_approval(one):
    one.approve(force=False)


@situation("OUTPUT_DIR_UNUSABLE", after="init")
def s_a_file_stands_where_the_request_goes(one):
    (one.folder / "site").write_text("")
    one.ask()


@situation("REQUEST_ZIP_NOT_FOUND", after="init")
def s_no_request(one):
    one.approve()


@situation("REQUEST_ZIP_NOT_FOUND", after="init")
def s_a_folder_instead_of_a_request(one):
    one.approve(one.folder)


@situation("INVALID_REQUEST_ZIP", after="asked")
def s_a_request_without_site_yaml(one):
    one.replace(one.request_zip, {"site.yaml": None})
    one.approve()


@situation("INVALID_REQUEST_ZIP", after="asked")
def s_a_request_without_its_certificate_request(one):
    one.replace(one.request_zip, {"site-1.csr": None})
    one.approve()


@situation("INVALID_REQUEST_ZIP", after="asked")
def s_a_request_with_something_else_in_it(one):
    one.replace(one.request_zip, {"readme.txt": b"hello"})
    one.approve()


@situation("INVALID_REQUEST_ZIP", after="asked")
def s_a_request_with_a_second_certificate_request(one):
    one.replace(one.request_zip, {"site-2.csr": b"hello"})
    one.approve()


@situation("INVALID_REQUEST_ZIP")
def s_an_answer_instead_of_a_request(one):
    one.approve(one.signed_zip)


@situation("PRIVATE_KEY_IN_ZIP", after="asked")
def s_the_whole_folder_of_the_request_was_sent(one):
    folder = one.folder / "site" / "site-1"
    one.replace(one.request_zip, {"site-1.key": (folder / "site-1.key").read_bytes()})
    one.approve()


@situation("REQUEST_METADATA_INVALID", after="asked")
def s_no_request_json(one):
    one.replace(one.request_zip, {"request.json": b"{}"})
    one.approve()


@situation("REQUEST_METADATA_INVALID", after="asked")
def s_a_request_json_that_is_no_text(one):
    one.replace(one.request_zip, {"request.json": b'{"artifact_type": "\xff"}'})
    one.approve()


@situation("REQUEST_METADATA_INVALID", after="asked")
def s_a_request_of_a_later_version(one):
    one.say_in_request(schema_version="2")
    one.approve()


@situation("REQUEST_METADATA_INVALID", after="asked")
def s_a_request_id_that_is_none(one):
    one.say_in_request(request_id="../x")
    one.approve()


@situation("REQUEST_METADATA_MISMATCH", after="asked")
def s_request_json_for_another_organisation_than_site_yaml(one):
    one.say_in_request(org="hospital_b")
    one.approve()


@situation("REQUEST_METADATA_MISMATCH", after="asked")
def s_a_site_yaml_and_request_json_for_another_than_the_certificate_request(one):
    site = formats.Site("hospitals", "site-1", "hospital_b", "client")
    one.say_in_request(org="hospital_b", site_yaml=request.describe(site))
    one.approve()


@situation("REQUEST_METADATA_MISMATCH", after="asked")
def s_a_public_key_other_than_that_of_the_certificate_request(one):
    one.say_in_request(public_key_sha256="0" * 64)
    one.approve()


@situation("CSR_HASH_MISMATCH", after="asked")
def s_the_certificate_request_of_another(one):
    exchange(one, "site-1.csr")
    one.approve()


@situation("SITE_YAML_HASH_MISMATCH", after="asked")
def s_the_site_yaml_of_another(one):
    exchange(one, "site.yaml")
    one.approve()


@situation("REQUEST_METADATA_MISMATCH", after="asked")
def s_the_certificate_request_of_another_with_its_digest(one):
    key = keys.generate()
    one.say_in_request(csr=request.signing_request(key, one.site))
    one.approve()


@situation("CSR_INVALID", after="asked")
def s_a_certificate_request_that_is_none(one):
    one.say_in_request(csr=b"hello")
    one.approve()


@situation("CSR_INVALID", after="asked")
def s_a_certificate_request_signed_with_another_key(one):
    pem = one.members(one.request_zip)["site-1.csr"]
    der = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    one.say_in_request(csr=b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n")
    one.approve()


# The project.


@situation("PROFILE_INVALID", after="init")
def s_a_profile_with_a_port_that_is_none(one):
    path = one.folder / "profile.yml"
    path.write_text("{name: hospitals, server: {host: fl.example.com, fed_learn_port: 0}}")
    approval.read_profile(path)


@situation("PROFILE_INVALID", after="asked")
def s_nothing_says_where_the_server_is(one):
    one.approve(profile=formats.Profile("hospitals"))


@situation("PROFILE_INVALID", after="asked")
def s_a_profile_that_a_program_made_up(one):
    one.approve(profile=formats.Profile("hospitals", formats.ServerProfile("a b", 8002)))


@situation("CA_ALREADY_EXISTS", after="init")
def s_a_second_authority_in_the_same_folder(one):
    one.init()


@situation("CA_VERSION_ALREADY_EXISTS", after="init")
def s_a_forced_authority_of_the_same_version(one):
    one.init(force=True)


@situation("PROJECT_MISMATCH", after="init")
def s_a_request_for_another_project(one):
    site = formats.Site("schools", "site-1", "hospital_a", "client")
    one.ask(site)
    one.approve()


@situation("PROJECT_MISMATCH", after="asked")
def s_a_profile_of_another_project(one):
    one.approve(profile=msgspec.structs.replace(one.profile, name="schools"))


@situation("SERVER_NAME_HOST_MISMATCH", after="init")
def s_a_server_with_a_name_that_the_profile_does_not_give(one):
    made = one.ask(formats.Site("hospitals", "evil.example.com", "hospital_a", "server"))
    one.approve(made.archive)


@situation("IDENTITY_CONFLICT")
def s_the_name_of_a_site_with_a_valid_certificate(one):
    made = request.make(one.site, one.folder / "thief", now=one.now)
    one.approve(made.archive, out=one.folder / "thief")


@situation("IDENTITY_CONFLICT")
def s_even_force_gives_no_name_to_another_organisation(one):
    thief = msgspec.structs.replace(one.site, org="hospital_z")
    made = request.make(thief, one.folder / "thief", now=one.now)
    one.approve(made.archive, force=True)


@situation("IDENTITY_CONFLICT")
def s_a_revoked_site_asks_again(one):
    certificate_authority.revoke(one.ca, ["site-1"], passphrase=one.passphrase, now=one.now)
    made = request.make(one.site, one.folder / "again", now=one.now)
    one.approve(made.archive, out=one.folder / "again")


@situation("IDENTITY_CONFLICT", after="init")
def s_a_client_that_would_be_called_like_the_server(one):
    profile = formats.Profile("hospitals", formats.ServerProfile("10.0.0.1", 8002, name="server1"))
    made = one.ask(formats.Site("hospitals", "server1", "hospital_a", "client"))
    one.approve(made.archive, profile=profile)


@situation("CERT_EXPIRED", after="asked")
def s_an_authority_whose_root_has_expired(one):
    one.approve(now=one.now + timedelta(days=3651))


@pytest.mark.parametrize(("code", "after", "happens"), SITUATIONS)
def test_a_situation_has_its_own_code(code, after, happens, enrolment):
    """It is bad input, it says why, and no kit is left behind."""
    if after != "init":
        enrolment.ask()
    if after == "approved":
        enrolment.approve()
    with pytest.raises(EnrolmentFault) as caught:
        happens(enrolment)
    fault = caught.value
    assert fault.error_code == code
    assert fault.exit_code is ExitCode.BAD_INPUT
    assert fault.why
    assert not list(enrolment.folder.glob("**/.*.partial"))
    shutil.rmtree(enrolment.folder)


CODE = re.compile(r'"([A-Z][A-Z_]{6,})"')


def test_the_table_of_codes_is_complete():
    """Every code that the source can give is in the table and has a situation, and the other way round."""
    table = set(re.findall(r"^\| ([A-Z_]+) +\|", errors.__doc__ or "", re.MULTILINE))
    text = ""
    for place in (Path(next(iter(package.__path__))), Path(next(iter(clouddeploy_provision.__path__)))):
        for path in place.rglob("*.py"):
            source = path.read_text()
            text += source if "EnrolmentFault" in source else ""
    used = set(CODE.findall(text)) - {"REQUEST"}
    used |= {f"{kind}_ZIP_NOT_FOUND" for kind in ("REQUEST", "SIGNED")}
    shown = {"SIGNED_FILE_HASH_MISMATCH", "SIGNED_METADATA_INVALID"}  # tests of their own, in test_signed_errors.py
    for path in Path(__file__).parent.glob("test_*.py"):
        shown |= set(re.findall(r'^@situation\("([A-Z_]+)"', path.read_text(), re.MULTILINE))
    assert table == shown
    assert used == table

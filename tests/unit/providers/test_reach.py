"""How a jump host is written in a deploy file."""

import pytest
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.reach import Jump, check_login, jump_outputs, parse_jump

KEY = "SHA256:" + "A" * 43
SETTINGS = {"identity_file": "~/.ssh/id", "jump": "fl@bastion.example.com:2222", "jump_host_key": KEY}


@pytest.mark.parametrize(
    ("text", "jump"),
    [
        ("fl@bastion", Jump("fl", "bastion", 22)),
        ("fl@bastion.example.com:2222", Jump("fl", "bastion.example.com", 2222)),
        ("first.last@192.0.2.1:22", Jump("first.last", "192.0.2.1", 22)),
        ("fl@[2001:db8::1]:2222", Jump("fl", "2001:db8::1", 2222)),
        ("fl@[2001:db8::1]", Jump("fl", "2001:db8::1", 22)),
    ],
)
def test_account_address_and_port_are_read(text, jump):
    assert parse_jump(text) == jump


@pytest.mark.parametrize(
    "text",
    [
        "bastion",
        "@bastion",
        "fl@",
        "fl@bastion:0",
        "fl@bastion:65536",
        "fl@bastion:ssh",
        "fl@a b",
        "fl@a,fl@b",
        "-o@x y",
        "f\x1bl@bastion",
    ],
)
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(InvalidRequest) as refused:
        parse_jump(text)
    assert refused.value.why
    assert "user@bastion" in refused.value.hint


@pytest.mark.parametrize("text", ["-oProxyCommand=x@bastion", "fl@-oProxyCommand=x"])
def test_a_word_that_a_program_would_take_for_an_option_is_refused(text):
    with pytest.raises(InvalidRequest):
        parse_jump(text)


@pytest.mark.parametrize(
    "user", ["fl", "_fl", "first.last", "svc-fl$", "HOSPITAL\\first.last", "fl@hospital.example.com"]
)
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::1", "site-2.example.com", "gpu_box"])
def test_accounts_and_addresses_as_they_are_are_taken(user, address):
    check_login({"user": user, "address": address}, "a machine")
    check_login({"user": user}, "a machine")


@pytest.mark.parametrize(
    "user", ["", "fl\n    ProxyCommand x", "f l", 'f"l', "f'l", "-oX", "fl\n", "fl%h", "${HOME}", "a;b"]
)
def test_a_user_that_would_say_more_than_an_account_is_refused(user):
    with pytest.raises(InvalidRequest, match="the user of a machine"):
        check_login({"user": user, "address": "192.0.2.1"}, "a machine")


@pytest.mark.parametrize(
    "address", ["", "h\n    ProxyCommand x", "a b", "-oX", "192.0.2.1\n", 'h"', "%h", "h#x", "h;x"]
)
def test_an_address_that_would_say_more_is_refused(address):
    with pytest.raises(InvalidRequest, match="the address of a machine"):
        check_login({"user": "fl", "address": address}, "a machine")


def test_without_a_jump_host_nothing_is_said():
    assert jump_outputs({"identity_file": "~/.ssh/id"}, "192.0.2.20") == {}


def test_the_key_for_the_machine_is_that_for_its_jump_host_unless_another_is_named():
    assert jump_outputs(SETTINGS, "192.0.2.20")["jump_identity_file"] == "~/.ssh/id"
    given = jump_outputs({**SETTINGS, "jump_identity_file": "~/.ssh/other"}, "192.0.2.20")
    assert given["jump_identity_file"] == "~/.ssh/other"


def test_a_jump_host_without_a_host_key_is_refused():
    lacking = {name: value for name, value in SETTINGS.items() if name != "jump_host_key"}
    for given in (lacking, {**SETTINGS, "jump_host_key": "accept-new"}):
        with pytest.raises(InvalidRequest, match="the jump_host_key of") as refused:
            jump_outputs(given, "192.0.2.20")
        assert "on the jump host" in refused.value.hint


def test_a_key_of_no_jump_host_is_refused():
    with pytest.raises(InvalidRequest, match="jump_host_key but no jump"):
        jump_outputs({"identity_file": "~/.ssh/id", "jump_host_key": KEY}, "192.0.2.20")

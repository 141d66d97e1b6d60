"""How a jump host is written in a deploy file."""

import pytest
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.reach import Jump, jump_outputs, parse_jump

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

"""docs/dashboard.md says what there is: each option, each call with its scope, each picture."""

import re
from pathlib import Path

import click
import pytest

from clouddeploy.cli.dashboard import dashboard
from clouddeploy.cli.main import cli
from clouddeploy.dashboard.rules import GRANTABLE, SENSITIVE, Action
from clouddeploy.dashboard.web.rest import CALLS

DOCS = Path(__file__).parents[3] / "docs"
GUIDE = (DOCS / "dashboard.md").read_text(encoding="utf-8")
EVERYWHERE = {"--output", "--no-input", "--schema", "--verbose", "--help"}
"""Of every command; docs/commands.md has them."""
TEMPLATES = DOCS.parent / "clouddeploy" / "dashboard" / "web" / "templates"
COMMANDS = sorted(
    {line.partition("  #")[0] for line in re.findall(r"^(clouddeploy .*)$", GUIDE, re.MULTILINE)}
    | {text for path in TEMPLATES.iterdir() for text in re.findall(r"<code>(clouddeploy [^<]*)", path.read_text())}
)
KITS = re.compile(r"^/(users|clients|servers)/\{id\}/(enrolment|reissue)$")


@pytest.mark.parametrize("command", ["init", "start"])
def test_every_option_is_explained(command):
    named = [set(one.opts) for one in dashboard.commands[command].params if one.param_type_name == "option"]
    told = set(re.findall(r"(?<![\w-])--?\w[\w-]*", GUIDE))
    missing = [one for one in named if not one & (EVERYWHERE | told)]
    assert missing == []


def test_every_command_stands_in_the_table():
    for name in dashboard.commands:
        assert f"| `clouddeploy dashboard {name}" in GUIDE


@pytest.mark.parametrize("call", CALLS, ids=lambda one: f"{one.method} {one.path}")
def test_every_call_stands_in_the_table(call):
    rows = [line.split(" | ")[0] for line in GUIDE.splitlines() if re.match(r"\| `(GET|POST|PUT|PATCH|DELETE)\b", line)]
    path = f"…/{KITS.match(call.path).group(2)}" if KITS.match(call.path) else call.path
    wanted = path.replace("/servers/{id}", "/servers/1")
    end = wanted.removeprefix("/deployments/{name}").replace("/stop", "…/stop") if "/stop" in wanted else wanted
    assert any(call.method in row and (f"{end}`" in row or f"{end} " in row) for row in rows), (call.method, end)


def test_every_scope_stands_in_the_table():
    assert [f"| `{one.value}` |" for one in GRANTABLE if f"| `{one.value}` |" not in GUIDE] == []


def test_every_picture_is_there_and_every_one_that_is_there_is_shown():
    shown = set(re.findall(r"\(images/dashboard/(\w+\.png)\)", GUIDE))
    assert shown == {one.name for one in (DOCS / "images" / "dashboard").iterdir()}


def test_what_asks_for_the_password_again_is_told():
    told = GUIDE.split("### What asks for the password again", 1)[1].partition("\n## ")[0].replace("\n", " ")
    words = {
        "Approving": {Action.USER_APPROVE, Action.SITE_APPROVE},
        "inviting": {Action.INVITE},
        "settings": {Action.PROJECT_EDIT},
        "freeze": {Action.PROJECT_FREEZE},
        "the server's kit": {Action.SERVER_KIT},
        "re-issue": {Action.SERVER_REISSUE, Action.SITE_REISSUE, Action.USER_REISSUE},
        "the answer to a request": {Action.SERVER_ENROL, Action.SITE_ENROL, Action.USER_ENROL},
        "roles": {Action.USER_ROLE, Action.ADMIN_MAKE},
        "second factors": {Action.FACTOR_EDIT, Action.FACTOR_RESET},
        "tokens": {Action.TOKEN_EDIT},
        "password without the old one": {Action.PASSWORD_EDIT},
        "applying": {Action.DEPLOY},
    }
    assert set().union(*words.values()) == SENSITIVE, "a new one needs its word here, and in the guide"
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_guide_or_page_tells_has_its_options(line):
    words, command, context = line.split()[1:], cli, click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None
    known = {name for one in command.params for name in one.opts}
    assert [word for word in words if word.startswith("-") and word not in known] == []
    needed = [set(one.opts) for one in command.params if one.required and one.param_type_name == "option"]
    # A command without anything behind it is only named.
    assert [one for one in needed if words and not one & set(words)] == []

"""Who may do what: evaluates a site's `local/authorization.json`.

A policy that is missing, unreadable or malformed allows nothing (the reference allows everything, which is worse).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.tls import Peer

FILES = ("authorization.json", "authorization.json.default")
"""The site's own file wins over the one the kit was made with."""

CATEGORIES: Mapping[str, frozenset[str]] = {
    "manage_job": frozenset({"abort", "abort_job", "delete_job", "delete_workspace", "configure_job_log"}),
    "view": frozenset(
        {"check_status", "show_scopes", "show_stats", "reset_errors", "show_errors", "list_jobs", "get_job_meta"}
    ),
    "operate": frozenset(
        {
            "sys_info",
            "report_resources",
            "report_env",
            "restart",
            "shutdown",
            "remove_client",
            "disable_client",
            "enable_client",
            "set_timeout",
            "call",
            "configure_site_log",
        }
    ),
    "shell_commands": frozenset({"cat", "grep", "head", "ls", "pwd", "tail"}),
    "download_job": frozenset({"download_job"}),
}
_RIGHT_TO_CATEGORY = {right: category for category, rights in CATEGORIES.items() for right in rights}


class PolicyError(ValueError):
    """A policy does not follow the format; whoever loads it denies everything."""


@dataclass(frozen=True)
class Request:
    """One question to a policy."""

    user: Peer
    right: str
    site_org: str
    submitter_name: str = ""
    submitter_org: str = ""


@dataclass(frozen=True)
class Control:
    """One right of one role: conditions that block and conditions that allow."""

    blocks: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()

    def permits(self, request: Request) -> bool:
        """Blocks win; then any allowing condition; with blocks only, whoever is not blocked may."""
        if any(_holds(condition, request) for condition in self.blocks):
            return False
        if self.allows:
            return any(_holds(condition, request) for condition in self.allows)
        return bool(self.blocks)


@dataclass(frozen=True)
class Policy:
    """The permissions of a site. `Policy()` denies everything."""

    roles: Mapping[str, Control | Mapping[str, Control]] = field(default_factory=dict)
    problem: str = "no policy is set"
    """Why everything is denied, for the audit log; empty for a sound policy."""

    def permits(self, request: Request) -> bool:
        """Evaluate: a control of the whole role, else of the right, else of the right's category; otherwise deny."""
        permissions = self.roles.get(_fold(request.user.role))
        if permissions is None:
            return False
        if isinstance(permissions, Control):
            return permissions.permits(request)
        control = permissions.get(request.right) or permissions.get(_RIGHT_TO_CATEGORY.get(request.right, ""))
        return control is not None and control.permits(request)


def _fold(text: str) -> str:
    return " ".join(text.lower().split())


def _holds(condition: str, request: Request) -> bool:
    if condition == "any":
        return True
    if condition == "none":
        return False
    subject, _, value = condition.partition(":")
    if subject == "o":
        org = _fold(request.user.org)
        expected = {"site": request.site_org, "submitter": request.submitter_org}.get(value, value)
        return bool(org) and org == _fold(expected)
    expected = request.submitter_name if value == "submitter" else value
    return bool(request.user.name) and _fold(request.user.name) == _fold(expected)


def _condition(text: str) -> str:
    if text in {"any", "all"}:
        return "any"
    if text in {"none", "no"}:
        return "none"
    subject, colon, value = (part.strip() for part in text.partition(":"))
    short = {"o": "o", "org": "o", "n": "n", "name": "n"}.get(subject)
    if short is None or not colon or not value or (short, value) == ("n", "site"):
        raise PolicyError(f"unknown condition {text!r}")
    return f"{short}:{value}"


def parse_control(value: Any) -> Control:
    """Parse one control: a condition or a list of them, each optionally with `not ` in front.

    Raises:
        PolicyError: names the condition that is not one.
    """
    blocks: list[str] = []
    allows: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            raise PolicyError(f"a condition must be text, not {item!r}")
        text = _fold(item)
        if text.startswith("not "):
            blocks.append(_condition(text.removeprefix("not ")))
        else:
            allows.append(_condition(text))
    if not blocks and not allows:
        raise PolicyError("a control without conditions")
    return Control(blocks=tuple(blocks), allows=tuple(allows))


def parse(document: Any) -> Policy:
    """Parse a policy document.

    Raises:
        PolicyError: the document does not follow format 1.0.
    """
    if not isinstance(document, dict) or document.get("format_version") != "1.0":
        raise PolicyError('"format_version" must be "1.0"')
    permissions = document.get("permissions")
    if not isinstance(permissions, dict):
        raise PolicyError('"permissions" must be an object')
    roles: dict[str, Control | dict[str, Control]] = {}
    for role, value in permissions.items():
        if isinstance(value, dict):
            roles[_fold(role)] = {_fold(right): parse_control(control) for right, control in value.items()}
        else:
            roles[_fold(role)] = parse_control(value)
    return Policy(roles=roles, problem="")


def load(local: Path) -> Policy:
    """Load the policy of a kit's `local` folder; one that denies everything when that fails, and says why."""
    for name in FILES:
        path = local / name
        try:
            return parse(json.loads(path.read_bytes()))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            return Policy(problem=f"{path.name}: {exc}")
    return Policy(problem=f"neither {' nor '.join(FILES)} exists")

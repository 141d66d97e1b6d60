"""Who may do what: evaluates a site's `local/authorization.json`.

A policy that is missing, unreadable or malformed allows nothing (the reference allows everything, which is worse). So
does one that says two things at once: a name twice, or a control of a whole role beside others that it would override.
"""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.tls import Peer

FILES = ("authorization.json", "authorization.json.default")
"""The site's own file wins over the one the kit was made with."""

CATEGORIES: Mapping[str, frozenset[str]] = {
    "manage_job": frozenset({"abort", "abort_job", "delete_job", "delete_workspace", "configure_job_log"}),
    "view": frozenset(
        {
            "check_status",
            "show_scopes",
            "show_stats",
            "reset_errors",
            "show_errors",
            "list_jobs",
            "get_job_meta",
            "list_studies",
            "show_study",
        }
    ),
    "manage_study": frozenset(
        {
            "register_study",
            "remove_study",
            "add_study_site",
            "remove_study_site",
            "add_study_user",
            "remove_study_user",
        }
    ),
    "operate": frozenset(
        {
            "sys_info",
            "report_resources",
            "report_env",
            "report_version",
            "list_sessions",
            "end_sessions",
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
OTHER_RIGHTS = frozenset({"submit_job", "clone_job", "byoc", "server-predeployed-flwr"})
"""In no category: a policy gives each by its own name."""
EVERY_RIGHT = "*"
"""As the name of a right it means the whole role, like a control in the place of the role's rights."""
MAX_BYTES = 1 << 20
"""Of a policy file; a sound one has a few KiB."""
_SETTLED_S = 2.0
"""A file that was changed later than this ago may change again without its time showing it."""
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
class Decision:
    """The answer to a request, and what in the policy decided it."""

    allowed: bool
    rule: str
    """For people: role, right or category, and the condition."""


@dataclass(frozen=True)
class Control:
    """One right of one role: conditions that block and conditions that allow."""

    blocks: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()

    def decide(self, request: Request) -> Decision:
        """Blocks win; then any allowing condition; with blocks only, whoever is not blocked may."""
        for condition in self.blocks:
            if _holds(condition, request):
                return Decision(allowed=False, rule=f"not {condition} holds")
        for condition in self.allows:
            if _holds(condition, request):
                return Decision(allowed=True, rule=f"{condition} holds")
        if self.allows:
            return Decision(allowed=False, rule=f"does not hold: {', '.join(self.allows)}")
        return Decision(allowed=bool(self.blocks), rule="nothing that blocks holds")

    def permits(self, request: Request) -> bool:
        """Tell whether the control lets it through."""
        return self.decide(request).allowed

    def __str__(self) -> str:
        """Return it as it may stand in a policy."""
        return ", ".join((*(f"not {one}" for one in self.blocks), *self.allows))


@dataclass(frozen=True)
class Policy:
    """The permissions of a site. `Policy()` denies everything."""

    roles: Mapping[str, Control | Mapping[str, Control]] = field(default_factory=dict)
    problem: str = "no policy is set"
    """Why everything is denied, for the audit log; empty for a sound policy."""

    def permits(self, request: Request) -> bool:
        """Evaluate: a control of the whole role, else of the right, else of the right's category; otherwise deny."""
        return self.explain(request).allowed

    def explain(self, request: Request) -> Decision:
        """Evaluate as `permits`, and say what decided."""
        if self.problem:
            return Decision(allowed=False, rule=self.problem)
        role = _fold(request.user.role)
        name, control = self.control(role, request.right)
        if control is None:
            return Decision(allowed=False, rule=name)
        decision = control.decide(request)
        return Decision(allowed=decision.allowed, rule=f"role {role}, {name}: {decision.rule}")

    def control(self, role: str, right: str) -> tuple[str, Control | None]:
        """Return the control that counts for a role's right, and by which name; None: there is none, and why."""
        permissions = self.roles.get(_fold(role))
        if permissions is None:
            return f"the policy has no role {role!r}", None
        if isinstance(permissions, Control):
            return "every right", permissions
        if right in permissions:
            return right, permissions[right]
        category = _RIGHT_TO_CATEGORY.get(right)
        if category is not None and category in permissions:
            return category, permissions[category]
        names = right if category in {None, right} else f"{right} nor {category}"
        return f"role {role} has no {names}", None

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the policy calls a right and is none here: a slip of the pen, perhaps."""
        known = {*_RIGHT_TO_CATEGORY, *CATEGORIES, *OTHER_RIGHTS}
        given = {right for rights in self.roles.values() if not isinstance(rights, Control) for right in rights}
        return tuple(sorted(given - known))


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
            rights: dict[str, Control] = {}
            for right, control in value.items():
                rights[_new_name(right, rights, "right")] = parse_control(control)
            if EVERY_RIGHT in rights and len(rights) > 1:
                raise PolicyError(f'the role {role!r} has rights beside "{EVERY_RIGHT}", which would not count')
            roles[_new_name(role, roles, "role")] = rights.get(EVERY_RIGHT, rights)
        else:
            roles[_new_name(role, roles, "role")] = parse_control(value)
    return Policy(roles=roles, problem="")


def _new_name(text: str, known: Mapping[str, Any], kind: str) -> str:
    name = _fold(text) if isinstance(text, str) else ""
    if not name:
        raise PolicyError(f"a {kind} without a name")
    if name in known:
        raise PolicyError(f"the {kind} {name!r} stands there twice")
    return name


def read(content: bytes) -> Policy:
    """Parse a policy file's content.

    Raises:
        PolicyError: it is no JSON, or does not follow format 1.0.
    """
    try:
        return parse(json.loads(content, object_pairs_hook=_once))
    except RecursionError as exc:
        raise PolicyError("it is nested too deeply") from exc
    except PolicyError:
        raise
    except ValueError as exc:
        raise PolicyError(str(exc)) from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of a name that stands there twice the format keeps one, and nobody knows which."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PolicyError("a name stands twice in one object")
    return found


def load(local: Path) -> Policy:
    """Load the policy of a kit's `local` folder; one that denies everything when that fails, and says why."""
    return PolicyFile(local).current()


class _Version(NamedTuple):
    """What changes when a file does."""

    inode: int
    size: int
    changed_ns: int
    touched_ns: int


class PolicyFile:
    """The policy of a kit's `local` folder, read again when its file was changed: an edit holds from the next question.

    May be used from several threads.

    Args:
        local: the folder.
    """

    def __init__(self, local: Path) -> None:
        self._local = local
        self._known: tuple[str, _Version, Policy] | None = None

    def current(self) -> Policy:
        """Return the policy; one that denies everything when it cannot be used, and says why."""
        for name in FILES:
            try:
                return self._of(name)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as exc:
                return Policy(problem=f"{name}: {exc}")
        return Policy(problem=f"neither {' nor '.join(FILES)} exists")

    def _of(self, name: str) -> Policy:
        path = self._local / name
        known = self._known
        if known is not None and known[0] == name and known[1] == _version(path.stat()):
            return known[2]
        version, content = _content(path)
        policy = read(content)
        is_settled = time.time_ns() - max(version.changed_ns, version.touched_ns) > _SETTLED_S * 1e9
        self._known = (name, version, policy) if is_settled else None
        return policy


def _content(path: Path) -> tuple[_Version, bytes]:
    """Return what is in a file that nobody writes to meanwhile.

    Raises:
        OSError: it cannot be read.
        PolicyError: it is no regular file, too large, or was changed while it was read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise PolicyError(f"it must be a file of at most {MAX_BYTES >> 20} MiB")
        content = file.read(MAX_BYTES)
        version = _version(os.fstat(handle))
    if version != _version(status) or len(content) != version.size:
        raise PolicyError("it was changed while it was read; ask again")
    return version, content


def _version(status: os.stat_result) -> _Version:
    return _Version(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

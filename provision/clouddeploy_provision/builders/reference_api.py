"""Lets a builder that was written for the reference run unchanged: its import names, its words for what it is given.

Only what the Open Provision API promises. The names can be imported while a builder is loaded or runs, and only where
the reference itself is not installed; elsewhere a builder gets the reference's own classes, which fit as well.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clouddeploy_runtime.kit import Kind

CTX_KEYS = {
    "WORKSPACE": "workspace",
    "WIP": "wip_dir",
    "STATE": "state_dir",
    "CURRENT_PROD_DIR": "current_prod_dir",
    "PROJECT": "__project__",
    "PROVISION_MODE": "__provision_model__",
    "SERVER_NAME": "server_name",
    "FED_LEARN_PORT": "fed_learn_port",
    "ADMIN_PORT": "admin_port",
}
"""The reference's name of an entry of the context → its key."""
_TYPES = ("server", "client", "relay", "admin")
_FOLDERS = ("get_wip_dir", "get_ws_dir", "get_kit_dir", "get_local_dir", "get_transfer_dir", "get_state_dir")


class ParticipantWords:
    """What the reference calls the attributes of a participant."""

    name: str
    kind: Kind
    host: str
    props: Mapping[str, Any]

    @property
    def type(self) -> str:
        """`server`, `client`, `relay` or `admin`."""
        return self.kind.value

    @property
    def subject(self) -> str:
        """The name in its certificate."""
        return self.name

    def get_prop(self, key: str, default: Any = None) -> Any:
        """Return what the project file says under a key."""
        return self.props.get(key, default)

    def get_default_host(self) -> str:
        """Return the host where a server is reached; of the others, their name."""
        return self.host if self.type == "server" else self.name


T = TypeVar("T", bound=ParticipantWords)


class ProjectWords(Generic[T]):
    """What the reference calls the participants of a project."""

    participants: tuple[T, ...]

    def get_participants_by_type(self, type: str, first_only: bool = True) -> Any:
        """Return the first participant of a type, or all of them; None or an empty list when there is none."""
        found = [one for one in self.participants if one.type == type]
        return (found[0] if found else None) if first_only else found

    def get_server(self) -> T:
        """Return the one server."""
        return next(one for one in self.participants if one.type == "server")

    def get_clients(self) -> list[T]:
        """Return the clients."""
        return [one for one in self.participants if one.type == "client"]

    def get_relays(self) -> list[T]:
        """Return the relays."""
        return [one for one in self.participants if one.type == "relay"]

    def get_admins(self) -> list[T]:
        """Return the admins."""
        return [one for one in self.participants if one.type == "admin"]

    def get_all_participants(self) -> list[T]:
        """Return all of them."""
        return list(self.participants)


@contextmanager
def importable() -> Iterator[None]:
    """Offer the reference's import names for a while."""
    if "nvflare" in sys.modules or find_spec("nvflare") is not None:
        yield
        return
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def _modules() -> dict[str, ModuleType]:
    from clouddeploy_provision import project, spec  # noqa: PLC0415 - they need this module first

    # Older builders ask themselves, `self.get_kit_dir(participant, ctx)`, newer ones the context.
    asking = {name: staticmethod(lambda *given, name=name: getattr(given[-1], name)(*given[:-1])) for name in _FOLDERS}
    upper = {name.upper(): name for name in _TYPES}
    contents: dict[str, dict[str, object]] = {
        "nvflare": {},
        "nvflare.lighter": {},
        "nvflare.lighter.entity": {"Participant": project.Participant, "Project": project.Project},
        "nvflare.lighter.ctx": {"ProvisionContext": spec.Context},
        "nvflare.lighter.constants": {
            "CtxKey": SimpleNamespace(**CTX_KEYS),
            "ParticipantType": SimpleNamespace(**upper),
            "ProvisionMode": SimpleNamespace(NORMAL="normal", POC="poc"),
        },
    }
    contents["nvflare.lighter.spec"] = {
        **contents["nvflare.lighter.entity"],
        **contents["nvflare.lighter.ctx"],
        "Builder": type("Builder", (spec.Builder,), asking),
        "Packager": spec.Packager,
    }
    made = {}
    for name, content in contents.items():
        made[name] = ModuleType(name)
        made[name].__path__ = []
        vars(made[name]).update(content)
    return made

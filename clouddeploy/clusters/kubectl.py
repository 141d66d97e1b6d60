"""The commands with which people go on at a site's pod: kubectl knows terminals and forwarded ports better than we."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHELL = ("sh",)


def command(
    outputs: Mapping[str, str], words: Sequence[str], *, has_terminal: bool = False, forwards: Sequence[str] = ()
) -> list[str]:
    """Return the argument vector that runs a command in a site's pod, or forwards ports to it.

    Args:
        outputs: of the site's place.
        words: the command; none: a shell.
        has_terminal: give it one.
        forwards: `PORT:localhost:PORT` as of OpenSSH's `-L`.

    Raises:
        ConfigError: a port of something else than the pod is asked for.
        StateError: there is no kubectl.
    """
    pod = f"deployment/{outputs['name']}"
    if forwards:
        return [*_start(outputs), "port-forward", pod, *(_ports(forward) for forward in forwards)]
    return [*_start(outputs), "exec", *(["-it"] if has_terminal else []), pod, "--", *(words or SHELL)]


def logs(outputs: Mapping[str, str], *, lines: int) -> list[str]:
    """Return the argument vector that shows what a site's pod prints, and goes on.

    Raises:
        StateError: there is no kubectl.
    """
    return [*_start(outputs), "logs", f"deployment/{outputs['name']}", "--tail", str(lines), "--follow"]


def _start(outputs: Mapping[str, str]) -> list[str]:
    program = shutil.which("kubectl")
    if program is None:
        raise StateError("there is no kubectl", why="`kubectl` is not in PATH", hint="install it, or use `oc` yourself")
    file = ["--kubeconfig", outputs["kubeconfig"]] if outputs.get("kubeconfig") else []
    return [program, *file, "--context", outputs["context"], "--namespace", outputs["namespace"]]


def _ports(forward: str) -> str:
    parts = forward.split(":")
    if len(parts) != 3 or parts[1] not in {"localhost", "127.0.0.1"}:  # noqa: PLR2004 - here, whose, there
        raise ConfigError(
            f"{forward} cannot be forwarded",
            why="a pod's own ports can, and those of other hosts cannot",
            hint="PORT:localhost:PORT",
        )
    return f"{parts[0]}:{parts[2]}"

"""The machines of a deployment for OpenSSH's own client: an ssh_config, and the commands that use it.

What people do at a machine (a terminal, a log that goes on, a forwarded port) OpenSSH does better than we could. It
gets the deployment's key and accepts the pinned host key alone, as everything else here does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_providers.reach import parse_jump
from clouddeploy_providers.resources import Kind

from clouddeploy import durable
from clouddeploy.clusters import kubectl
from clouddeploy.errors import ConfigError, StateError
from clouddeploy.remote.known_hosts import jump_name, machine_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy.keyring import Keyring
    from clouddeploy.state import State

FILE = "ssh_config"


@dataclass(frozen=True)
class Shell:
    """How one site's machine is reached.

    Attributes:
        site: its name, and the host's name in the ssh_config.
        name: the machine's, under which its host key is pinned.
        outputs: of its resource.
        root: where the site is installed; empty: it is not yet.
    """

    site: str
    name: str
    outputs: Mapping[str, str]
    root: str

    @property
    def is_here(self) -> bool:
        """Whether it is a folder of this machine, with no SSH between."""
        return "directory" in self.outputs

    @property
    def is_pod(self) -> bool:
        """Whether it is a pod, to which kubectl leads."""
        return "namespace" in self.outputs

    @property
    def log(self) -> str:
        """The site's log on its machine."""
        if not self.root:
            raise ConfigError(f"{self.site} is not installed yet", hint="run `clouddeploy apply`")
        return f"{self.root}/workspace/log.txt"


class Shells:
    """Every machine that a deployment has.

    Args:
        recorded: its state.
        directory: its folder; the ssh_config goes there.
        keyring: its SSH keys.
        pins: the file with the pinned host keys.
    """

    def __init__(self, recorded: State, *, directory: Path, keyring: Keyring, pins: Path) -> None:
        self._directory = directory.absolute()
        self._keyring = keyring
        self._pins = pins.absolute()
        self._shells = {
            record.site: Shell(
                site=record.site,
                name=machine_name(record.site, record.ref.id),
                outputs=record.ref.outputs,
                root=recorded.sites.get(record.site, {}).get("root", ""),
            )
            for record in recorded.resources.values()
            if record.ref.kind is Kind.MACHINE
        }

    def of(self, site: str) -> Shell:
        """Returns the one of a site.

        Raises:
            ConfigError: it has no machine.
        """
        if site not in self._shells:
            known = ", ".join(sorted(self._shells)) or "none yet: run `clouddeploy apply`"
            raise ConfigError(f"{site} has no machine here", hint=f"sites with a machine: {known}")
        return self._shells[site]

    def config(self) -> str:
        """Returns an ssh_config with a host for each site; nothing in it is secret."""
        return "\n".join(self._block(one) for _, one in sorted(self._shells.items()) if not (one.is_here or one.is_pod))

    def log_command(self, site: str, *, lines: int, is_followed: bool) -> list[str]:
        """Returns the argument vector that shows a site's log.

        Raises:
            ConfigError: the site has no machine, or is not installed yet.
            StateError: there is no client, or its configuration cannot be written.
        """
        shell = self.of(site)
        if shell.is_pod:
            return kubectl.logs(shell.outputs, lines=lines)
        return self.command(site, ["tail", "-n", str(lines), *(["-F"] if is_followed else []), shell.log])

    def command(
        self, site: str, words: Sequence[str], *, has_terminal: bool = False, forwards: Sequence[str] = ()
    ) -> list[str]:
        """Returns the argument vector that runs a command at a site, or without words opens a terminal there.

        Args:
            site: whose machine.
            words: the command; quoted for the shell there.
            has_terminal: give it one.
            forwards: as OpenSSH's `-L`; then nothing runs there but the forwarding.

        Raises:
            ConfigError: the site has no machine, or nothing to forward from.
            StateError: there is no OpenSSH client, or its configuration cannot be written.
        """
        shell = self.of(site)
        if shell.is_pod:
            return kubectl.command(shell.outputs, words, has_terminal=has_terminal, forwards=forwards)
        if shell.is_here:
            if forwards:
                raise ConfigError(f"{site} is on this machine", hint="its ports are here already; use them directly")
            inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", shell.outputs["directory"]]
            return [*inside, *(words or [os.environ.get("SHELL", "sh")])]
        client = shutil.which("ssh")
        if client is None:
            raise StateError(
                "there is no OpenSSH client", why="`ssh` is not in PATH", hint="install it (openssh-client)"
            )
        file = self._directory / FILE
        try:
            durable.replace(file, self.config())
        except OSError as error:
            raise StateError(f"cannot write {file}", why=str(error), hint="make room or fix the permissions") from error
        options = [option for forward in forwards for option in ("-L", forward)]
        options += ["-N", "-o", "ExitOnForwardFailure=yes"] if forwards else ["-t" if has_terminal else "-T"]
        return [client, "-F", str(file), *options, site, *([shlex.join(words)] if words else [])]

    def _block(self, shell: Shell) -> str:
        outputs = shell.outputs
        place = {"HostName": outputs["address"], "Port": outputs.get("ssh_port", "22"), "User": outputs["user"]}
        key = outputs.get("identity_file") or str(self._keyring.operator_file.absolute())
        settings = {**place, **self._how(shell.name, alias=shell.site, key=key)}
        if "jump" in outputs:
            settings["ProxyCommand"] = self._through(shell)
        for key, value in settings.items():
            if not value.isprintable():  # a line's end would begin a setting of its own
                raise ConfigError(
                    f"the {key} of {shell.site} cannot stand in an ssh_config",
                    why=f"{value!r} has characters that are not printable",
                    hint="correct it in the deploy file, then run `clouddeploy apply`",
                )
        return "\n".join([f"Host {shell.site}", *(f"    {key} {value}" for key, value in settings.items()), ""])

    def _through(self, shell: Shell) -> str:
        """Returns the command that connects over the jump host.

        Not `ProxyJump`, which would start an OpenSSH that knows nothing but the path of a configuration, and passes
        that path on without quotes. This one has everything in its words, so it also holds where it was exported to.
        """
        jump = parse_jump(shell.outputs["jump"])
        name = jump_name(shell.site, jump.place)
        settings = {
            "Port": str(jump.port),
            "User": jump.user,
            **self._how(name, alias=f"{shell.site}.jump-host", key=shell.outputs["jump_identity_file"]),
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        words = shlex.join(["ssh", "-F", "none", *options]).replace("%", "%%")
        return f"{words} -W '[%h]:%p' {shlex.quote(jump.address)}"

    def _how(self, name: str, *, alias: str, key: str) -> dict[str, str]:
        checker = [sys.executable, "-P", "-m", "clouddeploy.remote.pinned", str(self._pins), name]
        return {
            "IdentityFile": _quoted(str(Path(key).expanduser())),
            "IdentitiesOnly": "yes",
            "HostKeyAlias": alias,
            "KnownHostsCommand": f"{' '.join(_quoted(word) for word in checker)} %H %t %K",
            "UserKnownHostsFile": "none",
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "ForwardAgent": "no",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
        }


def _quoted(word: str) -> str:
    """Returns a word as ssh_config wants it; a percent sign would begin a token."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'

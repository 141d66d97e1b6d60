"""What a runtime's module gets to work on, and what it has to offer: see `Runtime`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from clouddeploy.prepare.errors import PrepareError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

C_contra = TypeVar("C_contra", contravariant=True)
"""The runtime's configuration: one of `prepare.config`."""
SCRIPT = 0o755
PLAIN = 0o644
PRIVATE = 0o600


@dataclass(frozen=True)
class PreparedKit:
    """A private copy of a kit, which will become the output.

    Attributes:
        root: the copy, with `startup/` and `local/`. Its `startup/` is signed: the only names that may be added there
            are those of `clouddeploy_runtime.kit.manifest.SITE_MADE`.
        output: where it will be once it is complete; commands that people type name this path.
        kind: `server` or `client`.
        name: the participant's.
        project: its project.
        org: its organisation.
        server_name: the server's logical name, its certificate's common name.
        server_host: where clients go.
        hosts: of a server, all names and addresses of its certificate.
        fed_learn_port: where the server listens.
        admin_port: where admins go; the same one but for kits whose file says otherwise.
    """

    root: Path
    output: Path
    kind: str
    name: str
    project: str
    org: str
    server_name: str
    server_host: str
    fed_learn_port: int
    admin_port: int
    hosts: tuple[str, ...] = ()

    @property
    def is_server(self) -> bool:
        """Whether it is a server's; else it is a client's."""
        return self.kind == "server"

    def write(self, name: str, content: str, mode: int = PLAIN) -> Path:
        """Write a file of the kit, with its folders; it has its mode before it has content.

        Args:
            name: relative to the kit, with `/`.
            content: the whole file.
            mode: of the file.

        Returns:
            Where it will be in the output.

        Raises:
            PrepareError: it cannot be written.
        """
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, mode)  # whatever the umask is
                file.write(content)
        except OSError as exc:
            raise PrepareError(
                f"{self.output / name} cannot be written",
                why=exc.strerror or str(exc),
                hint="make room there, or name another folder with --output",
            ) from exc
        return self.output / name


class Runtime(Protocol[C_contra]):
    """What each module of a runtime offers: `prepare.docker`, `prepare.slurm`, `prepare.kubernetes`."""

    def launcher_args(self, kit: PreparedKit, config: C_contra) -> Mapping[str, object]:
        """Returns the arguments of the launcher in `local/resources.json`: those that the engine's `check` takes.

        The keys that a reference's configuration has keep their names; the ones left out get the engine's defaults.
        """

    def workspace(self, kit: PreparedKit, config: C_contra) -> str:
        """Returns the absolute path of the workspace as the parent sees it; a server keeps its jobs below it."""

    def render(self, kit: PreparedKit, config: C_contra) -> Mapping[str, object]:
        """Adds the runtime's own files below `kit.root`; `local/resources.json` is written already.

        Returns:
            What the result names besides `runtime, role, name, output, resources`: `start_command` and `start_script`;
            or `namespace`, `helm_chart` and `helm_command`; or `submit_command`. Optionally `warnings`, a list of text.

        Raises:
            ConfigError: the configuration does not fit this kit.
        """

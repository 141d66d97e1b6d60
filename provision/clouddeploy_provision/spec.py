"""The Open Provision API: what a builder of one's own implements, and what it is given.

    from clouddeploy_provision.spec import Builder

    class NoticeBuilder(Builder):
        def build(self, project, ctx):
            for admin in project.admins:
                ctx.add_file(admin, "startup/notice.txt", b"Handle with care.")

`initialize` of all builders runs in the order of the project file, then `build` in the same order, then `finalize` in
the reverse order; after that every kit's manifest is made and signed, so what a builder writes is covered by it. A
packager's `package` runs last, on the finished and signed kits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from clouddeploy_provision import kit_tree, yaml_source
from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.kit_tree import FOLDER, PLAIN, SCRIPT, File

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence
    from pathlib import Path

    from clouddeploy_provision.project import Participant, Project

log = logging.getLogger(__name__)


class Builder:
    """Adds to the kits. Each method may be left out; the builder's `args` in the project file go to its `__init__`."""

    def initialize(self, project: Project, ctx: Context) -> None:
        """Prepare; no kit has anything in it yet."""

    def build(self, project: Project, ctx: Context) -> None:
        """Add to the kits what this builder is there for."""

    def finalize(self, project: Project, ctx: Context) -> None:
        """Do what must wait until every builder has built; called in reverse order."""


class Packager:
    """Turns finished kits into what is handed out."""

    def package(self, project: Project, ctx: Context) -> None:
        """Work on the signed kits in `ctx.get_result_location()`."""


class Context(dict[str, Any]):
    """One run of provisioning, as builders see it; as a dictionary it is theirs, to leave things for each other.

    Kits are kept in memory. They are written to a folder only when a builder asks for one (`get_kit_dir` and its
    kind), and read back when it is done.

    Args:
        workspace: the folder that holds all projects.
        folder: `<workspace>/<project>`.
        custom_folder: where the user's own builders and templates are.
        kits: participant's name → its files so far.
        previous: returns a file's content (participant, path) in the last result, if that kit is as it was signed.
    """

    provision_mode = "normal"

    def __init__(
        self,
        *,
        workspace: Path,
        folder: Path,
        custom_folder: Path | None,
        kits: MutableMapping[str, dict[str, File]],
        previous: Callable[[str, str], bytes | None] = lambda _name, _path: None,
    ) -> None:
        super().__init__()
        self._workspace = workspace
        self._folder = folder
        self.custom_folder = custom_folder
        self._staging = folder / "wip" / "staging"
        self._is_staged = False
        self._result: Path | None = None
        self._templates: dict[str, Any] = {}
        self._result_files: dict[str, File] = {}
        self._previous = previous
        self.kits = kits
        self.errors: list[str] = []
        self.warnings: list[str] = []

    # Files in memory.

    def add_file(self, participant: Participant, path: str, content: bytes, mode: int = PLAIN) -> None:
        """Put a file into a kit, for example `startup/notice.txt`; replaces one of the same path."""
        file = File(content, mode)
        self.kits[participant.name][_checked(path)] = file
        if self._is_staged:
            staged = self._staging / participant.name / path
            staged.parent.mkdir(FOLDER, parents=True, exist_ok=True)
            staged.unlink(missing_ok=True)
            kit_tree.write(str(self._staging / participant.name), {path: file})

    def files(self, participant: Participant) -> Mapping[str, File]:
        """Return path → file of a kit so far."""
        self.settle()
        return self.kits[participant.name]

    def carried(self, participant: Participant, path: str) -> bytes | None:
        """Return a file of this participant's kit in the last result; None when there is none that was signed."""
        return self._previous(participant.name, path)

    def add_result_file(self, path: str, content: bytes, mode: int = PLAIN) -> None:
        """Put a file beside the kits, into the `prod_NN` folder."""
        self._result_files[_checked(path)] = File(content, mode)

    @property
    def result_files(self) -> Mapping[str, File]:
        """What `add_result_file` was given."""
        return self._result_files

    # Folders, as the reference's builders use them.

    def get_workspace(self) -> Path:
        """Return the folder that holds all projects."""
        return self._workspace

    def get_state_dir(self) -> Path:
        """Return the folder of the certificate authority."""
        return self._folder / "state"

    def get_wip_dir(self) -> Path:
        """Return the folder of unfinished kits."""
        return self._stage()

    def get_ws_dir(self, participant: Participant) -> Path:
        """Return the folder of one kit."""
        return self._stage() / participant.name

    def get_kit_dir(self, participant: Participant) -> Path:
        """Return a kit's folder `startup`."""
        return self.get_ws_dir(participant) / "startup"

    def get_local_dir(self, participant: Participant) -> Path:
        """Return a kit's folder `local`."""
        return self.get_ws_dir(participant) / "local"

    def get_transfer_dir(self, participant: Participant) -> Path:
        """Return a kit's folder `transfer`."""
        return self.get_ws_dir(participant) / "transfer"

    def get_result_location(self) -> Path | None:
        """Return the `prod_NN` folder; None until the kits are finished."""
        return self._result

    # Templates.

    def load_templates(self, names: str | Sequence[str]) -> None:
        """Read sections of text from YAML files in the custom folder.

        Raises:
            ProjectFileError: a file cannot be read or is not a mapping of texts.
        """
        for name in [names] if isinstance(names, str) else names:
            if self.custom_folder is None:
                raise BuilderFailed(f"the template {name} cannot be read", why="no custom folder was given", hint="-c")
            data = yaml_source.parse(self.custom_folder / name).data
            if isinstance(data, dict):
                self._templates.update(data)

    def build_from_template(
        self,
        dest_dir: Path,
        temp_section: str | Sequence[str],
        file_name: str,
        replacement: Mapping[str, object] | None = None,
        *,
        exe: bool = False,
    ) -> None:
        """Write a file from sections of the loaded templates, `{~~key~~}` replaced by its value."""
        sections = [temp_section] if isinstance(temp_section, str) else temp_section
        missing = [name for name in sections if not isinstance(self._templates.get(name), str)]
        if missing:
            raise BuilderFailed(f"{file_name} cannot be written", why=f"there is no template section {missing[0]}")
        text = "".join(self._templates[name] for name in sections)
        for key, value in (replacement or {}).items():
            text = text.replace("{~~" + key + "~~}", str(value))
        path = dest_dir / file_name
        path.write_text(text, "utf-8")
        path.chmod(SCRIPT if exe else PLAIN)

    # Messages.

    def debug(self, message: str) -> None:
        """Log for whoever looks for a fault."""
        log.debug("%s", message)

    def info(self, message: str) -> None:
        """Log what is going on."""
        log.info("%s", message)

    def warning(self, message: str) -> None:
        """Tell the user of something that is probably not meant."""
        self.warnings.append(message)
        log.warning("%s", message)

    def error(self, message: str) -> None:
        """Tell the user of something that went wrong; the run fails when the builders are done."""
        self.errors.append(message)
        log.error("%s", message)

    # For the provisioner.

    def settle(self) -> None:
        """Read back what builders wrote into folders."""
        if not self._is_staged:
            return
        for name in self.kits:
            root = self._staging / name
            self.kits[name] = kit_tree.read(root, sorted(kit_tree.scan(str(root))))
        beside = {path.name for path in self._staging.iterdir()} - set(self.kits)
        for path in sorted(
            one for name in beside for one in [self._staging / name, *(self._staging / name).rglob("*")]
        ):
            if path.is_file() and not path.is_symlink():
                self._result_files |= kit_tree.read(self._staging, [str(path.relative_to(self._staging))])

    def finished(self, result: Path) -> None:
        """Note where the finished kits are."""
        self._result = result
        self._is_staged = False

    def _stage(self) -> Path:
        """Write the kits to a folder, once."""
        if self._result is not None:
            return self._result
        if not self._is_staged:
            self._staging.mkdir(FOLDER, parents=True)
            for name, files in self.kits.items():
                folders = {*files, "startup/.", "local/."}
                kit_tree.make_folders(str(self._staging / name), sorted(folders))
                kit_tree.write(str(self._staging / name), files)
            self._is_staged = True
        return self._staging


def _checked(path: str) -> str:
    parts = path.split("/")
    if not path or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise BuilderFailed(f"{path!r} cannot be written", why="it is not a path below a kit's folder")
    return path

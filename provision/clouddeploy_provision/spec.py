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
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_provision import kit_tree, yaml_source
from clouddeploy_provision.builders import reference_api
from clouddeploy_provision.errors import BuilderFailed, Problem, ProjectFileError
from clouddeploy_provision.kit_tree import FOLDER, PLAIN, SCRIPT, File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

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
    kind), and read back when all are done. Entries of the reference's (`ctx["server_name"]`, or CtxKey.SERVER_NAME)
    are there too.

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
        self.root = workspace
        self._project: Project | None = None
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

    def __missing__(self, key: str) -> Any:
        if key == reference_api.CTX_KEYS["WIP"]:
            return self.get_wip_dir()  # only now are the kits written to a folder
        raise KeyError(key)

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
        if self._is_staged:
            self.kits[participant.name] = self._staged(participant.name)
        return self.kits[participant.name]

    def carried(self, participant: Participant, path: str) -> bytes | None:
        """Return a file of this participant's kit in the last result; None when there is none that was signed."""
        return self._previous(participant.name, path)

    def add_result_file(self, path: str, content: bytes, mode: int = PLAIN) -> None:
        """Put a file beside the kits, into the `prod_NN` folder."""
        if _checked(path).partition("/")[0] in self.kits:
            raise BuilderFailed(f"{path} cannot be put beside the kits", why="it is in one", hint="use add_file")
        self._result_files[path] = File(content, mode)

    @property
    def result_files(self) -> Mapping[str, File]:
        """What `add_result_file` was given."""
        return self._result_files

    # Folders, as the reference's builders use them.

    def get_workspace(self) -> Path:
        """Return the project's folder, which holds `state` and the results."""
        return self._folder

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

    def get_provision_mode(self) -> str:
        """Return `normal`."""
        return self.provision_mode

    def get_project(self) -> Project | None:
        """Return the project; None before the first builder is called."""
        return self._project

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
            source = yaml_source.parse(self.custom_folder / name)
            if source.problems:
                raise ProjectFileError(source.name, source.problems)
            if not isinstance(source.data, dict):
                raise ProjectFileError(source.name, [Problem(source.name, 1, rule="must be a mapping of texts")])
            self._templates.update(source.data)

    def get_template_section(self, section: str) -> str:
        """Return a section of the loaded templates.

        Raises:
            BuilderFailed: there is none, or it is not a text.
        """
        found = self._templates.get(section)
        if not isinstance(found, str):
            raise BuilderFailed(
                f"there is no template section {section}", hint="load the file that has it: ctx.load_templates"
            )
        return found

    def build_from_template(  # noqa: PLR0917 - the reference's arguments, in its order
        self,
        dest_dir: Path | str,
        temp_section: str | Sequence[str],
        file_name: str,
        replacement: Mapping[str, object] | None = None,
        mode: str = "t",
        exe: bool = False,
        content_modify_cb: Callable[..., str] | None = None,
        **cb_kwargs: Any,
    ) -> None:
        """Write a file from sections of the loaded templates, `{~~key~~}` replaced by its value.

        Args:
            dest_dir: the file's folder, from `get_kit_dir` or its kind.
            temp_section: one section or several, which are joined.
            file_name: its name.
            replacement: key → value.
            mode: `t` or `b`; the same here.
            exe: make it executable.
            content_modify_cb: is given the text, and `cb_kwargs`; what it returns is written.
            cb_kwargs: see there.

        Raises:
            BuilderFailed: a section is missing.
        """
        del mode  # text is written as UTF-8 either way
        sections = [temp_section] if isinstance(temp_section, str) else temp_section
        text = "".join(map(self.get_template_section, sections))
        for key, value in (replacement or {}).items():
            text = text.replace("{~~" + key + "~~}", str(value))
        if content_modify_cb is not None:
            text = content_modify_cb(text, **cb_kwargs)
        path = Path(dest_dir, file_name)
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

    def begin(self, project: Project) -> None:
        """Note whose kits these are."""
        self._project = project
        server, keys = project.server, reference_api.CTX_KEYS
        self.update(
            {
                keys["WORKSPACE"]: self.get_workspace(),
                keys["STATE"]: self.get_state_dir(),
                keys["PROJECT"]: project,
                keys["PROVISION_MODE"]: self.provision_mode,
                keys["SERVER_NAME"]: server.name,
                keys["FED_LEARN_PORT"]: server.port,
                keys["ADMIN_PORT"]: server.port,
            }
        )

    def settle(self) -> None:
        """Read back what builders wrote into folders.

        Raises:
            BuilderFailed: there is something that is neither a file nor a folder.
        """
        if not self._is_staged:
            return
        for name in self.kits:
            self.kits[name] = self._staged(name)
        for path in sorted(_files(self._staging)):
            if path.partition("/")[0] not in self.kits:
                self._result_files |= kit_tree.read(self._staging, [path])

    def discard(self) -> None:
        """Remove the folders of unfinished kits, if they are this run's: a preview holds no lock."""
        if self._is_staged:
            shutil.rmtree(self._staging.parent, ignore_errors=True)
        self._is_staged = False

    def finished(self, result: Path) -> None:
        """Note where the finished kits are."""
        self._result = result
        self[reference_api.CTX_KEYS["CURRENT_PROD_DIR"]] = result

    def _stage(self) -> Path:
        """Write the kits to a folder, once."""
        if self._result is not None:
            return self._result
        if not self._is_staged:
            self._staging.mkdir(FOLDER, parents=True)
            self._is_staged = True
            for name, files in self.kits.items():
                folders = {*files, "startup/.", "local/."}
                kit_tree.make_folders(str(self._staging / name), sorted(folders))
                kit_tree.write(str(self._staging / name), files)
        return self._staging

    def _staged(self, name: str) -> dict[str, File]:
        root = self._staging / name
        return kit_tree.read(root, sorted(_files(root)))


def _files(root: Path) -> Iterator[str]:
    """Yield the paths of the files in a folder, at any depth."""
    for path in root.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BuilderFailed(
                f"{path.name} in {path.parent} cannot go into a kit",
                why="it is neither a file nor a folder",
                hint="a builder must copy what a link leads to",
            )
        if path.is_file():
            yield str(path.relative_to(root))


def _checked(path: str) -> str:
    parts = path.split("/")
    if not path or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise BuilderFailed(f"{path!r} cannot be written", why="it is not a path below a kit's folder")
    return path

"""`clouddeploy prepare`: from a signed kit and a runtime's configuration to a folder that runs there."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import study_runtime as studies

from clouddeploy.prepare import config_file, kit_copy, output, resources, staged, study_runtime
from clouddeploy.prepare import record as records
from clouddeploy.prepare.errors import PrepareError
from clouddeploy.prepare.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.prepare.config import Config
    from clouddeploy.prepare.kit import PreparedKit, Runtime

CONFIG, OUTPUT = "config.yaml", "prepared"
"""Names in the kit's folder: the configuration, and the folder for outputs, where the command line names none."""
MODULES = {"docker": "docker", "k8s": "kubernetes", "slurm": "slurm"}
"""Runtime → its module here; imported when it is used."""


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        kit: whose, and where it is.
        runtime: for which.
        more: what its module says: commands to type.
        warnings: for people.
        is_kept: whether the `study_runtime.yaml` that somebody had edited went on.
        backup: has the files of the earlier output that differed; None: none did.
    """

    kit: PreparedKit
    runtime: str
    more: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    is_kept: bool = False
    backup: Path | None = None

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "runtime": self.runtime,
            "role": self.kit.kind,
            "name": self.kit.name,
            "output": str(self.kit.output),
            "resources": str(self.kit.output / resources.RESOURCES),
            "study_runtime": str(self.kit.output / study_runtime.PATH),
            "study_runtime_kept": self.is_kept,
            "backup": None if self.backup is None else str(self.backup),
            "warnings": list(self.warnings),
            **self.more,
        }


def prepare(
    kit: Path,
    *,
    config: Path | Config | None = None,
    target: Path | None = None,
    runtime: Runtime[Any] | None = None,
) -> Prepared:
    """Make a kit ready for a runtime; the kit itself stays as it is.

    Whether it is killed or fails, the earlier output is there, or the new one.

    Args:
        kit: the startup kit.
        config: says for which runtime, or is the file that does; None: `config.yaml` in the kit's folder.
        target: where to; None: `prepared/<runtime>` in the kit's folder.
        runtime: what adds the runtime's files; None: its module.

    Raises:
        ConfigError: the configuration is wrong; see `prepare.errors` for the other reasons.
    """
    source = kit_copy.read(kit)
    file = source.root / CONFIG if config is None else config
    read = config_file.read(file) if isinstance(file, Path) else file
    place = output.check(target or source.root / OUTPUT / read.runtime, source.root)
    with output.room(place) as new:
        earlier = output.check_earlier(place, source.kit)
        staged.refuse(place)
        copied = kit_copy.copy(source, new, output=place)
        is_kept = earlier is not None and _keep_study_runtime(place, new, earlier)
        more, warnings = _edit(copied, read, runtime or _module(read.runtime))
        _check(copied, read, is_kept=is_kept)
        backup = None if earlier is None else output.back_up(place, new, earlier)
        output.take_place(place, new)
    there = replace(copied, root=place)
    return Prepared(there, read.runtime, more=more, warnings=tuple(warnings), is_kept=is_kept, backup=backup)


def _module(runtime: str) -> Runtime[Any]:
    found: Any = importlib.import_module(f"{__package__}.{MODULES[runtime]}")
    made: Runtime[Any] = found
    return made


def _edit(kit: PreparedKit, config: Config, module: Runtime[Any]) -> tuple[dict[str, object], list[str]]:
    warnings = resources.check_communication(kit)
    for part in ("parent", "job_launcher"):
        if getattr(getattr(config, part), "internal_connection_security", "") == "clear":
            warnings.append(resources.clear_warning(f"{part}.internal_connection_security"))
    warnings += resources.edit(
        kit,
        launcher=config.runtime,
        arguments=module.launcher_args(kit, config),
        workspace=module.workspace(kit, config),
    )
    study_runtime.ensure(kit)
    more = dict(module.render(kit, config))
    said = more.pop("warnings", ())
    return more, [*warnings, *(str(one) for one in said)]  # type: ignore[attr-defined]


def _check(kit: PreparedKit, config: Config, *, is_kept: bool) -> None:
    """Note what was made, and hold it against what the project signed once more: a kit that does not start is none."""
    files = records.digests(kit.root)
    if is_kept:
        files[study_runtime.PATH] = ""  # not made here, so it is kept the next time too
    made = Record(config.runtime, kit.project, kit.name, files)
    kit.write(records.FILE, records.encode(made))
    try:
        kits.verify(kit.root)
    except kits.KitError as exc:
        raise PrepareError(f"{kit.output} would not start", why=str(exc), hint="report it: this is a defect") from exc


def _keep_study_runtime(place: Path, new: Path, earlier: Record) -> bool:
    """Take over what somebody has written since; what `prepare` wrote itself is written anew."""
    path = place / study_runtime.PATH
    if path.is_symlink() or not path.is_file():
        return False
    found = records.digests(path.parent).get(studies.FILE)
    if found == earlier.files.get(study_runtime.PATH):
        return False
    shutil.copy2(path, new / study_runtime.PATH)
    return True

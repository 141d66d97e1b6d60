"""A job folder as the sites read it: configurations in JSON, whatever they were written in.

The sites have no reader for HOCON or YAML on purpose, so the admin's side converts before anything is signed and sent.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.jobs import hocon

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIXES = (".conf", ".yml", ".yaml")
_METAS = tuple(f"meta{suffix}" for suffix in (".json", *_SUFFIXES))
_STEMS = ("config_fed_server", "config_fed_client")


def is_job(folder: Path) -> bool:
    """Tell whether a folder has a meta file, as every job has; nothing else of it is looked at."""
    return any((folder / meta).is_file() for meta in _METAS)


@contextmanager
def normalised(folder: Path) -> Iterator[Path]:
    """Give the folder itself when all its configurations are JSON, else a temporary copy in which they are.

    A `.json` beside a `.conf` or `.yml` of the same name wins, as in the reference.

    Raises:
        InvalidJob: it is no job's folder, or a file cannot be read or is not what its name says; names file and line.
    """
    if not is_job(folder):  # what follows looks at every file, and a slip such as `/` means a whole disk
        raise InvalidJob(
            f"{folder} is no job's folder",
            why="it holds no meta.json" if folder.is_dir() else "there is no such folder",
            hint="Name the folder that holds meta.json and the job's apps.",
        )
    foreign = _foreign(folder)
    if not foreign:
        yield folder
        return
    converted = {path.relative_to(folder): _document(path) for path in foreign}
    with tempfile.TemporaryDirectory(prefix="clouddeploy-submit-") as temporary:
        copy = Path(temporary) / (folder.resolve().name or "job")
        shutil.copytree(folder, copy, symlinks=True)  # packing leaves links out, so what they point to is not copied
        for path, document in converted.items():
            (copy / path).unlink()
            (copy / path).with_suffix(".json").write_text(json.dumps(document, indent=2), encoding="utf-8")
        yield copy


def _foreign(folder: Path) -> list[Path]:
    stems = [folder / "meta", *(path / stem for path in sorted(folder.glob("*/config")) for stem in _STEMS)]
    found = []
    for stem in stems:
        if stem.with_suffix(".json").exists():
            continue
        found += [path for suffix in _SUFFIXES if (path := stem.with_suffix(suffix)).is_file()][:1]
    return found


def _document(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        document = hocon.parse(text) if path.suffix == ".conf" else _yaml(path, text)
        json.dumps(document, allow_nan=False)
    except OSError as exc:
        raise _invalid(path, exc.strerror or str(exc)) from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise _invalid(path, str(exc)) from exc
    return document


def _yaml(path: Path, text: str) -> Any:
    try:
        yaml: Any = import_module("yaml")  # only where the operator's package is installed; a site has none
    except ImportError as exc:
        raise _invalid(path, "reading YAML needs PyYAML, which is not installed here") from exc
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise _invalid(path, " ".join(str(exc).split())) from exc


def _invalid(path: Path, why: str) -> InvalidJob:
    return InvalidJob(f"{path} cannot be used", why=why, hint="Correct the file, or write it as JSON.")

"""What the jobs of a study get at a site that starts them elsewhere: `local/study_runtime.yaml`.

The format is the reference's, version 2. Read again for each job, by the process of that job alone, so a correction
counts for the next one, and a site's parent needs no YAML. What nobody knows is refused: data that a typing error made
writable, or an option that has no effect, is worse than a job that does not start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from clouddeploy_runtime.errors import ExitCode, RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
FILE = "study_runtime.yaml"
OLDER_FILE = "study_data.yaml"
"""Of version 1, which knows datasets alone: study → dataset → source and mode. Read where the other is not there."""
VERSION = 2
DATA = "/data"
"""Where the data of studies are at an outpost: `/data/<study>/<dataset>`."""
MODES = ("ro", "rw")
SANDBOXES = ("apptainer", "pyxis", "none")
REFUSED_KWARGS = frozenset(
    {
        *("volumes", "mounts", "network", "environment", "command", "name", "detach", "auto_remove", "user"),
        *("working_dir", "image", "cap_drop", "device_cgroup_rules", "entrypoint", "hostname", "labels"),
        *("network_disabled", "network_mode", "pid_mode", "privileged", "remove", "restart_policy", "security_opt"),
        *("stdin_open", "tty", "use_config_proxy", "userns_mode", "volume_driver", "volumes_from"),
    }
)
"""Of a job's container in docker: what its launcher sets, and what would take its walls away."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Of a study, a dataset or a secret: part of a path."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED_VARIABLES = re.compile(r"CLOUDDEPLOY_.*|NVFLARE_.*|NVFL_.*|PYTHON.*|LD_.*|PATH|HOME|TMPDIR", re.ASCII)
"""What a job's process is started with; nobody's study changes which code that is."""
_MAX_BYTES = 1 << 20


class BadStudyRuntime(RuntimeFault):
    """`local/study_runtime.yaml` cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_STUDY_RUNTIME"


@dataclass(frozen=True)
class Dataset:
    """Data of a study.

    Attributes:
        source: docker, Slurm: a folder here; Kubernetes: a PersistentVolumeClaim.
        is_writable: whether jobs may change it.
    """

    source: str
    is_writable: bool = False


@dataclass(frozen=True)
class SecretVariable:
    """A variable whose value the file does not say.

    Attributes:
        source: Kubernetes: a Secret; else: a variable of the site's own process.
        key: of the Secret.
    """

    source: str
    key: str = ""


@dataclass(frozen=True)
class SecretMount:
    """A secret that jobs find as files.

    Attributes:
        source: Kubernetes: a Secret; docker, Slurm: a path here.
        mount_path: where jobs find it.
    """

    source: str
    mount_path: str


@dataclass(frozen=True)
class SlurmRuntime:
    """What a study's batch jobs have instead of the launcher's; empty: the launcher's."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    setup: str = ""
    sandbox: str = ""


@dataclass(frozen=True)
class StudyRuntime:
    """What the jobs of one study get.

    Attributes:
        image: of jobs that name none; empty: the launcher's.
        datasets: by name.
        env: variables.
        secret_env: variable → where its value is.
        secret_mounts: by name.
        pod_template: Kubernetes: a file of the site with the rest of a pod.
        docker_kwargs: docker: further options of the container.
        slurm: Slurm: instead of the launcher's.
    """

    image: str = ""
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretVariable] = field(default_factory=dict)
    secret_mounts: Mapping[str, SecretMount] = field(default_factory=dict)
    pod_template: Path | None = None
    docker_kwargs: Mapping[str, Any] = field(default_factory=dict)
    slurm: SlurmRuntime = SlurmRuntime()


def place(study: str, dataset: str = "") -> str:
    """Return where jobs of a study find its data, or one dataset of it."""
    return str(PurePosixPath(DATA, study, dataset))


def of(local: Path, study: str) -> StudyRuntime:
    """Read what the jobs of a study get; nothing where the file, or the study in it, is not there.

    Args:
        local: the kit's `local` folder.
        study: of the job.

    Raises:
        BadStudyRuntime: the file cannot be read, has a key that is not known, or a value of the wrong kind.
    """
    path = local / FILE
    data = _content(path)
    if data is not None:
        return parse(data, path).get(study, StudyRuntime())
    older = local / OLDER_FILE
    data = _content(older)
    if data is None:
        return StudyRuntime()
    studies = _Table(older, "the file", _yaml(data, older))
    return StudyRuntime(datasets=studies.each(study, _dataset))


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _bad(path, exc.strerror or str(exc)) from exc
    if len(data) > _MAX_BYTES:
        raise _bad(path, f"it has more than {_MAX_BYTES} bytes")
    return data


def parse(data: bytes, path: Path) -> Mapping[str, StudyRuntime]:
    """Return what each study of a file gets; templates of pods are looked for beside it.

    Raises:
        BadStudyRuntime: as `of`.
    """
    document = _Table(path, "the file", _yaml(data, path))
    document.only("format_version", "studies")
    version = document.get("format_version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise _bad(path, f"format_version is {version!r}, and this version reads {VERSION}")
    studies = document.table("studies")
    return {name: _study(studies.table(name)) for name in studies.names()}


def _study(given: _Table) -> StudyRuntime:
    given.only("container", "datasets", "env", "secret_env", "secret_mounts", "pod_template", "docker_kwargs", "slurm")
    container = given.table("container")
    container.only("image")
    variables, secret_variables = given.table("env"), given.table("secret_env")
    kwargs = given.table("docker_kwargs")
    refused = sorted(REFUSED_KWARGS & set(kwargs.content))
    if refused:
        raise kwargs.bad(f"sets {', '.join(refused)}, which is the launcher's")
    template = given.text("pod_template")
    return StudyRuntime(
        image=container.text("image"),
        datasets=given.each("datasets", _dataset),
        env={name: variables.value(name) for name in variables.variables()},
        secret_env={name: _secret_variable(secret_variables.table(name)) for name in secret_variables.variables()},
        secret_mounts=given.each("secret_mounts", _secret_mount),
        pod_template=given.beside(template) if template else None,
        docker_kwargs=dict(kwargs.content),
        slurm=_slurm(given.table("slurm")),
    )


def _dataset(given: _Table) -> Dataset:
    given.only("source", "mode")
    mode = given.get("mode", MODES[0])
    if mode not in MODES:
        raise given.bad(f"has the mode {mode!r}, and may have {' or '.join(MODES)}")
    return Dataset(given.text("source", is_needed=True), is_writable=mode == "rw")


def _secret_variable(given: _Table) -> SecretVariable:
    given.only("source", "key")
    return SecretVariable(given.text("source", is_needed=True), given.text("key"))


def _secret_mount(given: _Table) -> SecretMount:
    given.only("source", "mount_path")
    target = given.text("mount_path", is_needed=True)
    if not target.startswith("/") or ".." in target.split("/") or target.rstrip("/") in {"", DATA}:
        raise given.bad(f"has the mount_path {target!r}, and needs an absolute path of its own")
    return SecretMount(given.text("source", is_needed=True), target)


def _slurm(given: _Table) -> SlurmRuntime:
    given.only("partition", "account", "qos", "setup", "sandbox")
    sandbox = given.text("sandbox")
    if sandbox and sandbox not in SANDBOXES:
        raise given.bad(f"has the sandbox {sandbox!r}, and may have {', '.join(SANDBOXES)}")
    words = {key: given.text(key) for key in ("partition", "account", "qos")}
    return SlurmRuntime(**words, setup=given.text("setup", has_lines=True), sandbox=sandbox)


class _Table:
    """One mapping of the file, and where it stands."""

    def __init__(self, path: Path, where: str, content: Any) -> None:
        self._path = path
        self._where = where
        if content is None:
            content = {}
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise self.bad("is no mapping of names")
        self.content: dict[str, Any] = content

    def bad(self, why: str) -> BadStudyRuntime:
        return _bad(self._path, f"{self._where} {why}")

    def only(self, *known: str) -> None:
        strange = sorted(set(self.content) - set(known))
        if strange:
            raise self.bad(f"has {', '.join(map(repr, strange))}, and may have {', '.join(known)}")

    def get(self, key: str, usual: Any) -> Any:
        return self.content.get(key, usual)

    def table(self, key: str) -> _Table:
        above = "" if self._where == "the file" else f"{self._where}."
        return _Table(self._path, f"{above}{key}", self.content.get(key))

    def names(self) -> list[str]:
        for name in self.content:
            if NAME.fullmatch(name) is None:
                raise self.bad(f"has {name!r}, which is no name: letters, digits, dots, dashes and underscores are")
        return list(self.content)

    def each(self, key: str, of_one: Callable[[_Table], T]) -> dict[str, T]:
        inner = self.table(key)
        return {name: of_one(inner.table(name)) for name in inner.names()}

    def variables(self) -> list[str]:
        for name in self.content:
            if VARIABLE.fullmatch(name) is None or RESERVED_VARIABLES.fullmatch(name):
                raise self.bad(f"sets {name!r}, which is no variable of jobs")
        return list(self.content)

    def text(self, key: str, *, is_needed: bool = False, has_lines: bool = False) -> str:
        value = self.content.get(key)
        if value is None and not is_needed:
            return ""
        if not isinstance(value, str) or "\0" in value or not (value or not is_needed):
            raise self.bad(f"needs text as {key}" if value is None else f"has {value!r} as {key}, which is no text")
        if not has_lines and not value.isprintable():
            raise self.bad(f"has {value!r} as {key}, which is not one line of text")
        return value

    def value(self, key: str) -> str:
        """Return the value of a variable; YAML reads `1` as a number."""
        value = self.content[key]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
            raise self.bad(f"gives {key} the value {value!r}, which is no text")
        return str(value)

    def beside(self, name: str) -> Path:
        """Return a file of the site's `local` folder."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise self.bad(f"names {name!r}, which is no file of local/")
        return self._path.parent / path


def _yaml(data: bytes, path: Path) -> Any:
    try:
        import yaml  # noqa: PLC0415 - only jobs elsewhere need it, and their extras bring it
    except ImportError as exc:
        raise BadStudyRuntime(
            f"{path} cannot be read",
            why="PyYAML is not installed",
            hint="pip install 'clouddeploy-runtime[docker]', or the extra of the site's launcher",
        ) from exc

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice: PyYAML keeps the last one in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(data, Loader=Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise _bad(path, f"{line}{getattr(exc, 'problem', None) or exc}") from exc


def _bad(path: Path, why: str) -> BadStudyRuntime:
    return BadStudyRuntime(
        f"{path} cannot be used", why=why, hint="Correct it; the next job reads it again. docs/prepare.md explains it."
    )

"""From a job's configuration to what runs: the reference's components on ours, and a job's own from custom/."""

from __future__ import annotations

import inspect
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clouddeploy_runtime.job import initial_model
from clouddeploy_runtime.job.arguments import check
from clouddeploy_runtime.job.client_api import Wishes
from clouddeploy_runtime.job.controller import Controller
from clouddeploy_runtime.job.fedavg import BadWorkflow, FedAvg
from clouddeploy_runtime.job.filters import Chain, ExcludeVars, Filter, Filters
from clouddeploy_runtime.jobs import known
from clouddeploy_runtime.jobs.known import ComponentRefused

if TYPE_CHECKING:
    from clouddeploy_runtime.job.channel import Channel
    from clouddeploy_runtime.jobs.app_config import AppConfig, Component, FilterChain

log = logging.getLogger(__name__)

OURS = "clouddeploy_runtime."
_WORKFLOW: Mapping[str, str] = {
    "num_rounds": "num_rounds",
    "num_clients": "num_clients",
    "min_clients": "num_clients",
    "initial_model": "initial_model",
    "evaluate": "evaluate",
    "wait_time_after_min_received": "wait_s",
    "task_name": "train_task",
    "train_task_name": "train_task",
}
"""Arguments of the reference's workflows → of our FedAvg."""
_GATHER: Mapping[str, Any] = {"num_clients": 1, "wait_s": 10}
"""What ScatterAndGather takes where the configuration says nothing, and our FedAvg does not."""
_SAMPLED = {"num_clients": "sampled_sites"}
"""What it means in the reference's FedAvg: so many sites, drawn anew in each round."""
_PARTS: Mapping[str, str] = {"aggregator_id": "aggregator", "shareable_generator_id": "shareable_generator"}
"""Components that ScatterAndGather takes where the configuration names none."""
_SCRIPT_ARGUMENTS = frozenset({"task_script_path", "task_script_args", "launcher_id"})
_PYTHONS = frozenset({"python", "python3"})

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Script:
    """A training script, and what its executor says of it."""

    file: Path
    arguments: tuple[str, ...]
    wishes: Wishes


def controller(
    config: AppConfig, app: Path, *, channel: Channel, sites: tuple[str, ...], run_dir: Path, job_id: str
) -> Controller:
    """Makes the workflow of a server's configuration.

    Raises:
        ComponentRefused: a class that neither we nor custom/ have.
        BadWorkflow: more than one workflow, or arguments that do not fit.
        BadModel: there is no initial model.
    """
    if len(config.workflows) > 1:
        names = ", ".join(one.path.rpartition(".")[2] for one in config.workflows)
        raise BadWorkflow(
            f"{config.file} names {len(config.workflows)} workflows",
            why=f"a job runs one: {names}",
            hint="submit a job for each, or write a controller that does both",
        )
    workflow = config.workflows[0]
    _note_unused(config, used=known.PERSISTORS | known.AGGREGATORS | known.GENERATORS)
    is_gathering = workflow.path in known.SCATTER_AND_GATHER
    kind = FedAvg if is_gathering or workflow.path in known.FEDAVG else own(workflow, "workflows", Controller)
    made = kind(channel, sites=sites, run_dir=run_dir, job_id=job_id)
    arguments = workflow.args
    if not workflow.path.startswith(OURS) and kind is FedAvg:
        arguments = {**(_GATHER if is_gathering else {}), **_translated(workflow)}
        _look_at_parts(config, workflow)
        if "initial_model" not in arguments:
            # A resumed job has its model; making the first one again could take long for nothing.
            arguments["initial_model"] = {} if made.resumed else _model(config, workflow, app)
    configure = getattr(made, "configure", None)
    if configure is not None:
        _fit(workflow, configure, arguments)
        configure(**arguments)
    return made


def _translated(workflow: Component) -> dict[str, Any]:
    names = _WORKFLOW if workflow.path in known.SCATTER_AND_GATHER else {**_WORKFLOW, **_SAMPLED}
    check(workflow, taken=names)
    return {"evaluate": False, **{names[key]: value for key, value in workflow.args.items() if key in names}}


def _look_at_parts(config: AppConfig, workflow: Component) -> None:
    """Looks at what the workflow works with, which is FedAvg's own here; also at what the reference takes unnamed.

    Raises:
        ComponentRefused: it does something else than FedAvg.
        BadWorkflow: there is none of the id, or its arguments would change the result.
    """
    usual = _PARTS if workflow.path in known.SCATTER_AND_GATHER else {}
    for key, ours in (("aggregator_id", known.AGGREGATORS), ("shareable_generator_id", known.GENERATORS)):
        name = workflow.args.get(key, usual.get(key))
        part = config.components.get(name) if isinstance(name, str) else None
        if part is None:
            if workflow.args.get(key):
                raise BadWorkflow(f"{workflow.where}: there is no component {name!r}", why=f'it is named as "{key}"')
            continue
        if part.path not in ours:
            raise _refused(part, "components")
        check(part)


def _model(config: AppConfig, workflow: Component, app: Path) -> Mapping[str, Any]:
    given = workflow.args.get("model")
    if given is not None:
        return _model_of(config, given, workflow)
    name = workflow.args.get("persistor_id", "persistor")
    persistor = config.components.get(name) if isinstance(name, str) else None
    if persistor is None:
        raise initial_model.BadModel(
            f"{workflow.where} has no initial model",
            why=f"there is no component {name!r}",
            hint='name one: "initial_model": "module:function"',
        )
    if persistor.path not in known.PERSISTORS:
        raise _refused(persistor, "components")
    check(persistor)
    file = persistor.args.get("source_ckpt_file_full_name")
    if isinstance(file, str) and file:
        places = [app / folder / file for folder in ("custom", "config", "")]
        return initial_model.from_file(next((one for one in places if one.is_file()), places[0]), app=app)
    if persistor.path in known.NUMPY_PERSISTORS:
        numbers = persistor.args.get("initial_model", persistor.args.get("model")) or initial_model.NUMPY_DEFAULT
        return initial_model.of({initial_model.NUMPY_KEY: numbers}, persistor.where)
    return _model_of(config, persistor.args.get("model"), persistor)


def _model_of(config: AppConfig, given: Any, holder: Component) -> Mapping[str, Any]:
    """Makes the model that a `model` argument names: a component's id, a class with its arguments, or parameters."""
    if isinstance(given, str) and given in config.components:
        component = config.components[given]
        return initial_model.from_class(component.path, component.args)
    if isinstance(given, Mapping) and ("path" in given or "class_path" in given):
        return initial_model.from_class(str(given.get("path", given.get("class_path"))), given.get("args") or {})
    return initial_model.of(given, f"{holder.where}: model")


def script(config: AppConfig, app: Path, *, search: Iterable[str] = ()) -> Script:
    """Finds the training script of a client's configuration.

    Args:
        config: the client's.
        app: the app's folder.
        search: folders with code that the site has itself, tried after the app's custom/.

    Raises:
        ComponentRefused: an executor that we do not have.
        BadWorkflow: executors of several scripts, or a script that is not there.
    """
    executors = [one.component for one in config.executors]
    for one in executors:
        if one.path not in known.EXECUTORS:
            raise _refused(one, "executors")
    if any((one.path, one.args) != (executors[0].path, executors[0].args) for one in executors):
        raise BadWorkflow(
            f"{config.file} names {len(executors)} different executors",
            why="a site runs one training script",
            hint="let one script do all tasks; it asks flare.is_train() and flare.is_evaluate()",
        )
    executor = executors[0]
    name, arguments = _command(config, executor)
    _note_unused(config, used=known.SCRIPT_LAUNCHERS)
    wishes = Wishes(
        tasks=tuple(task for one in config.executors for task in one.tasks),
        train=str(executor.args.get("train_task_name", "train")),
        evaluate=str(executor.args.get("evaluate_task_name", "evaluate")),
        filters=filters(config),
        to_framework=_framework(executor),
        config=executor.args,
    )
    return Script(_script_file(executor, app, name, search), arguments, wishes)


def _command(config: AppConfig, executor: Component) -> tuple[str, tuple[str, ...]]:
    path, given = executor.args.get("task_script_path"), executor.args.get("task_script_args", "")
    if path is not None:
        if not isinstance(path, str) or not isinstance(given, str):
            raise BadWorkflow(f"{executor.where}: task_script_path and task_script_args must be text")
        return path.removeprefix("custom/"), tuple(_split(executor, given))
    launcher = config.components.get(str(executor.args.get("launcher_id", "")))
    if launcher is None:
        raise BadWorkflow(f"{executor.where} names no script", hint='give it "task_script_path"')
    if launcher.path not in known.SCRIPT_LAUNCHERS:
        raise _refused(launcher, "executors")
    words = _split(launcher, str(launcher.args.get("script", "")))
    if words and words[0] in _PYTHONS:
        words = words[2:] if words[1:2] == ["-u"] else words[1:]
        if words and words[0].endswith(".py"):
            return words[0].removeprefix("custom/"), tuple(words[1:])
    raise BadWorkflow(
        f"{launcher.where}: the script {launcher.args.get('script')!r} is not run",
        why="it is no `python custom/<script>.py <arguments>`",
        hint="a job starts no other programs; name the script itself",
    )


def _split(component: Component, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadWorkflow(f"{component.where}: {text!r} is no list of words", why=str(error)) from error


def _script_file(executor: Component, app: Path, name: str, search: Iterable[str]) -> Path:
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or not name.endswith(".py"):
        raise BadWorkflow(f"{executor.where}: {name!r} is no script below custom/")
    for folder in (app / "custom", *(Path(one) for one in search if one)):
        if (folder / relative).is_file():
            return folder / relative
    raise BadWorkflow(
        f"{executor.where}: there is no script {name!r}", why="neither in custom/ nor among the site's own code"
    )


def _framework(executor: Component) -> Callable[[Any], Any] | None:
    usual = "pytorch" if executor.path in known.PYTORCH_EXECUTORS else "numpy"
    wanted = str(executor.args.get("params_exchange_format", usual)).lower()
    if wanted in {"numpy", "raw"}:
        return None
    if wanted != "pytorch":
        raise BadWorkflow(f"{executor.where}: params_exchange_format {wanted!r} is not known", hint="numpy or pytorch")
    try:
        torch: Any = import_module("torch")
    except ImportError as error:
        raise BadWorkflow(
            f"{executor.where}: the script wants PyTorch tensors",
            why=f"torch cannot be imported at this site: {error}",
            hint='install it there, or say "params_exchange_format": "numpy"',
        ) from error
    # A copy: PyTorch has no read-only tensors, and the array is the server's buffer.
    return lambda one: torch.from_numpy(one.copy())


def filters(config: AppConfig) -> Filters:
    """Makes the filters of a configuration.

    Raises:
        ComponentRefused: a filter that neither we nor custom/ have; a job never runs without one of its filters.
        BadFilter: its arguments do not fit.
    """
    return Filters(
        data=[_chain(one) for one in config.task_data_filters],
        result=[_chain(one) for one in config.task_result_filters],
    )


def _chain(chain: FilterChain) -> Chain:
    made = []
    for one in chain.filters:
        kind = ExcludeVars if one.path in known.EXCLUDE_VARS else own(one, "filters", Filter)
        _fit(one, kind, one.args)
        made.append(kind(**one.args))
    return Chain(chain.tasks, tuple(made))


def own(component: Component, part: str, base: type[_Kind]) -> type[_Kind]:
    """Returns a class of the job's own code, or of the site's.

    Raises:
        ComponentRefused: there is none, or it does not derive from `base`.
    """
    module, _, name = component.path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise _refused(component, part, str(error)) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise _refused(component, part, f"it does not derive from {base.__module__}.{base.__name__}")
    return kind


def _refused(component: Component, part: str, why: str = "") -> ComponentRefused:
    return ComponentRefused(
        f"{component.where}: {component.path} cannot be run", why=why, hint=f"There is {known.INSTEAD[part]}."
    )


def _fit(component: Component, made: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise BadWorkflow(f"{component.where}: the arguments do not fit", why=str(error)) from error


def _note_unused(config: AppConfig, *, used: frozenset[str]) -> None:
    for one in config.components.values():
        if one.path in known.OBSERVERS:
            log.warning("%s: %s is left out; no parameter depends on it", one.where, one.path)
        elif one.path not in used:
            log.info("%s: %s is not used", one.where, one.path)

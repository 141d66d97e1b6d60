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

from clouddeploy_runtime.job import arguments as known_arguments
from clouddeploy_runtime.job import frameworks, initial_model
from clouddeploy_runtime.job.arguments import check
from clouddeploy_runtime.job.buffers import OFFLOAD
from clouddeploy_runtime.job.client_api import Wishes
from clouddeploy_runtime.job.controller import MODEL, BadWorkflow, Controller
from clouddeploy_runtime.job.cross_site import CrossSiteEval
from clouddeploy_runtime.job.cyclic import Cyclic
from clouddeploy_runtime.job.fedavg import FedAvg
from clouddeploy_runtime.job.filters import Chain, Filter, Filters
from clouddeploy_runtime.job.named_filters import KINDS
from clouddeploy_runtime.job.sequence import InOrder
from clouddeploy_runtime.jobs import known
from clouddeploy_runtime.jobs.known import ComponentRefused

if TYPE_CHECKING:
    from clouddeploy_runtime.job.channel import Channel
    from clouddeploy_runtime.jobs.app_config import AppConfig, Component, FilterChain

log = logging.getLogger(__name__)

OURS = "clouddeploy_runtime."
_GATHER: Mapping[str, Any] = {"num_clients": 1, "wait_s": 10}
"""What ScatterAndGather takes where the configuration says nothing, and our FedAvg does not."""
_SAMPLED = {"num_clients": "sampled_sites"}
"""What it means in the reference's FedAvg: so many sites, drawn anew in each round."""
_AGGREGATOR, _GENERATOR = "aggregator", "shareable_generator"
"""Components that the reference takes where the configuration names none."""
_SERVER, _PYTORCH, _PYTORCH_BEST = "server", "FL_global_model.pt", "best_FL_global_model.pt"
"""What the reference calls the server's models in an evaluation, behind `SRV_`."""
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
) -> Controller | InOrder:
    """Makes the workflow of a server's configuration, or its training and the evaluation after it.

    Raises:
        ComponentRefused: a class that neither we nor custom/ have.
        BadWorkflow: other workflows together, or arguments that do not fit.
        BadModel: there is no initial model.
    """
    later = config.workflows[1:]
    if len(later) > 1 or any(one.path not in known.CROSS_SITE for one in later):
        names = ", ".join(one.path.rpartition(".")[2] for one in config.workflows)
        raise BadWorkflow(
            f"{config.file} names {len(config.workflows)} workflows",
            why=f"a job runs one, and after it a cross-site evaluation at most: {names}",
            hint="submit a job for each, or write a controller that does both",
        )
    _note_unused(config, used=known.PERSISTORS | known.AGGREGATORS | known.GENERATORS | known.LOCATORS)
    parts: list[Controller] = []
    for workflow in config.workflows:
        kind = _kind(workflow)
        made = kind(channel, sites=sites, run_dir=run_dir, job_id=job_id)
        if isinstance(made, CrossSiteEval):
            made.is_alone = not parts
        _configure(made, workflow, config, app)
        parts.append(made)
    return parts[0] if not later else InOrder(parts)


def _kind(workflow: Component) -> type[Controller]:
    kinds: tuple[tuple[frozenset[str], type[Controller]], ...] = (
        (known.FEDAVG | known.SCATTER_AND_GATHER, FedAvg),
        (known.CYCLIC, Cyclic),
        (known.CROSS_SITE, CrossSiteEval),
    )
    ours = next((kind for paths, kind in kinds if workflow.path in paths), None)
    return ours or own(workflow, "workflows", Controller)


def _configure(made: Controller, workflow: Component, config: AppConfig, app: Path) -> None:
    configure = getattr(made, "configure", None)
    if configure is None:
        return
    given = workflow.args
    if type(made) is FedAvg:
        given = {key: value for key, value in given.items() if key != OFFLOAD}  # the parent reads it
    if not workflow.path.startswith(OURS):
        if isinstance(made, CrossSiteEval):
            given = _evaluation(made, workflow, config, app)
        elif type(made) in {FedAvg, Cyclic}:
            given = _training(made, workflow, config, app)
    _fit(workflow, configure, given)
    configure(**given)


def _training(made: Controller, workflow: Component, config: AppConfig, app: Path) -> dict[str, Any]:
    """Returns our arguments for one of the reference's trainings, with those of the components that it works with."""
    parts = _parts(config, workflow)
    if isinstance(made, Cyclic):
        given = _translated(workflow, known_arguments.CYCLIC)
    elif workflow.path in known.SCATTER_AND_GATHER:
        given = {**_GATHER, "evaluate": False, **parts, **_translated(workflow, known_arguments.FEDAVG)}
    else:
        given = {"evaluate": False, **parts, **_translated(workflow, {**known_arguments.FEDAVG, **_SAMPLED})}
    if "initial_model" not in given:
        # A resumed job has its model; making the first one again could take long for nothing.
        given["initial_model"] = {} if made.resumed else _model(config, workflow, app)
    return given


def _evaluation(made: CrossSiteEval, workflow: Component, config: AppConfig, app: Path) -> dict[str, Any]:
    """Returns our arguments for one of the reference's evaluations."""
    given = _translated(workflow, known_arguments.CROSS_SITE)
    server, best, persistor = _server_models(config, workflow)
    given |= {"server_model": server, "best_model": best, "keep_models": not workflow.args.get("cleanup_models")}
    if workflow.path in known.GLOBAL_EVALUATIONS:
        given["submit_task"] = ""
    is_needed = made.is_alone and server is not None and not (made.run_dir / MODEL).exists()
    if is_needed and "initial_model" not in given:
        given["initial_model"] = _model(config, workflow, app, persistor=persistor)
    return given


def _server_models(config: AppConfig, workflow: Component) -> tuple[str | None, str | None, str]:
    """Returns what the server's last and best model are called in the matrix, and the persistor's id."""
    if workflow.path in known.LISTS_MODELS:
        names = workflow.args.get("server_models", [_PYTORCH])
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise BadWorkflow(f'{workflow.where}: "server_models" must be a list of names', why=f"it is {names!r}")
        best = [one for one in names if one.startswith("best")]
        last = [one for one in names if one not in best]
        return (last or [None])[0], (best or [None])[0], "persistor"
    name = workflow.args.get("model_locator_id")
    if not name:
        return None, None, ""
    locator = config.components.get(name) if isinstance(name, str) else None
    if locator is None:
        raise BadWorkflow(f"{workflow.where}: there is no component {name!r}", why='it is named as "model_locator_id"')
    if locator.path not in known.LOCATORS:
        raise _refused(locator, "components")
    check(locator)
    if locator.path not in known.PYTORCH_LOCATORS:
        named = locator.args.get("model_name")
        return f"SRV_{next(iter(named)) if isinstance(named, dict) and named else _SERVER}", None, "persistor"
    persistor = str(locator.args.get("pt_persistor_id", "persistor"))
    files = config.components[persistor].args if persistor in config.components else {}
    last_file = files.get("global_model_file_name", _PYTORCH)
    return f"SRV_{last_file}", f"SRV_{files.get('best_global_model_file_name', _PYTORCH_BEST)}", persistor


def _translated(workflow: Component, names: Mapping[str, str]) -> dict[str, Any]:
    check(workflow, taken=names)
    return {names[key]: value for key, value in workflow.args.items() if key in names}


def _parts(config: AppConfig, workflow: Component) -> dict[str, Any]:
    """Looks at what the workflow works with, which is our own's here; also at what the reference takes unnamed.

    Returns:
        The aggregator's arguments, as FedAvg's.

    Raises:
        ComponentRefused: it does something else than FedAvg.
        BadWorkflow: there is none of the id, or its arguments would change the result.
    """
    is_gathering = workflow.path in known.SCATTER_AND_GATHER
    given: dict[str, Any] = {}
    for key, usual, ours in (
        ("aggregator_id", _AGGREGATOR if is_gathering else None, known.AGGREGATORS),
        (
            "shareable_generator_id",
            _GENERATOR if is_gathering or workflow.path in known.CYCLIC else None,
            known.GENERATORS,
        ),
    ):
        name = workflow.args.get(key, usual)
        part = config.components.get(name) if isinstance(name, str) else None
        if part is None:
            if workflow.args.get(key):
                raise BadWorkflow(f"{workflow.where}: there is no component {name!r}", why=f'it is named as "{key}"')
            continue
        if part.path not in ours:
            raise _refused(part, "components")
        taken = {one: one for one in ("exclude_vars", "aggregation_weights")} if key == "aggregator_id" else {}
        check(part, taken=taken)
        given |= {one: part.args[one] for one in taken if part.args.get(one)}
    return given


def _model(config: AppConfig, workflow: Component, app: Path, *, persistor: str = "persistor") -> Mapping[str, Any]:
    given = workflow.args.get("model")
    if given is not None:
        return _model_of(config, given, workflow)
    name = workflow.args.get("persistor_id", persistor)
    return _kept(config, workflow, app, name)


def _kept(config: AppConfig, workflow: Component, app: Path, name: Any) -> Mapping[str, Any]:
    """Returns what the persistor of that id begins with."""
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
    return frameworks.to_torch(torch)


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
    return Chain(chain.tasks, tuple(filter_of(one) for one in chain.filters))


def filter_of(component: Component) -> Filter:
    """Makes one filter; raises as `filters` does."""
    kind = KINDS.get(component.path) or own(component, "filters", Filter)
    _fit(component, kind, component.args)
    return kind(**component.args)


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

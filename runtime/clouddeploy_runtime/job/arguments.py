"""The arguments of the reference's components that are taken, and the values of which nothing comes out differently.

What is in none of these lists is refused by name: an argument that is passed over without a word gives another result
than the one that was asked for.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from clouddeploy_runtime.job.buffers import OFFLOAD
from clouddeploy_runtime.job.controller import BadWorkflow
from clouddeploy_runtime.jobs import known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.jobs.app_config import Component


class _Any:
    """Whatever stands there, no parameter depends on it, or it is read elsewhere here."""


ANY: Final = _Any()
Values = tuple[Any, ...] | _Any

_SAME = ("initial_model", "num_rounds", "start_round", "wire_dtype")
FEDAVG: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in _SAME},
        **{name: name for name in ("stop_cond", "patience", "key_metric", "lower_is_better", "evaluate")},
        "aggregation_weights": "aggregation_weights",
        "exclude_vars": "exclude_vars",
        "num_clients": "num_clients",
        "min_clients": "num_clients",
        "wait_time_after_min_received": "wait_s",
        "task_name": "train_task",
        "train_task_name": "train_task",
    }
)
"""Arguments of the reference's workflows → of our FedAvg."""
CYCLIC: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in (*_SAME, "order")},
        "num_clients": "sampled_sites",
        "task_name": "train_task",
    }
)
"""→ of our Cyclic."""
CROSS_SITE: Mapping[str, str] = MappingProxyType(
    {
        "initial_model": "initial_model",
        "wire_dtype": "wire_dtype",
        "submit_model_timeout": "submit_s",
        "validation_timeout": "evaluate_s",
        "submit_model_task_name": "submit_task",
        "validation_task_name": "evaluate_task",
        "participating_clients": "participants",
    }
)
"""→ of our CrossSiteEval."""

_PERIODS = ("memory_gc_rounds", "persist_every_n_rounds", "snapshot_every_n_rounds", "task_check_period")
_WORKFLOW: Mapping[str, Values] = {
    **dict.fromkeys(
        (
            *("allow_empty_global_weights", "ignore_result_error", *_PERIODS),
            *("persistor_id", "save_filename", "stream_to_disk", "model", "train_timeout", "aggregator_id"),
            "shareable_generator_id",
        ),
        ANY,
    ),
    OFFLOAD: (None, True, False),  # the parent reads it
    "aggregator": (None,),
    "fedprox_mu": (None, 0, 0.0),
}
_CYCLIC: Mapping[str, Values] = {
    **dict.fromkeys((*_PERIODS, "task_assignment_timeout", "persistor_id", "shareable_generator_id", "model"), ANY),
    "allow_early_termination": (False,),
}
_CROSS_SITE: Mapping[str, Values] = {
    **dict.fromkeys(("task_check_period", "wait_for_clients_timeout", "persistor_id", "formatter_id"), ANY),
    **dict.fromkeys(("model_locator_id", "server_models", "cleanup_models"), ANY),
    "cross_val_dir": ("cross_site_val",),
}
_LOCATOR: Mapping[str, Values] = dict.fromkeys(("model_dir", "model_name", "pt_persistor_id"), ANY)
_AGGREGATOR: Mapping[str, Values] = {
    "weights": (None, {}),
    "weigh_by_local_iter": (True,),
    "expected_data_kind": ("WEIGHT_DIFF", "WEIGHTS"),  # the client API makes whole parameters of differences
}
_NUMPY_PERSISTOR: Mapping[str, Values] = {
    **dict.fromkeys(("model", "initial_model", "model_dir", "model_name", "source_ckpt_file_full_name"), ANY),
    "filter_id": (None, ""),
}
_PYTORCH_PERSISTOR: Mapping[str, Values] = {
    **dict.fromkeys(
        ("model", "global_model_file_name", "best_global_model_file_name", "source_ckpt_file_full_name"), ANY
    ),
    **dict.fromkeys(("load_weights_only", "allow_numpy_conversion"), ANY),
    "exclude_vars": (None, ""),
    "filter_id": (None, ""),
}
_NONE: Mapping[str, Values] = MappingProxyType({})
KNOWN: Mapping[str, Mapping[str, Values]] = MappingProxyType(
    {
        **dict.fromkeys(known.FEDAVG | known.SCATTER_AND_GATHER, _WORKFLOW),
        **dict.fromkeys(known.CYCLIC, _CYCLIC),
        **dict.fromkeys(known.CROSS_SITE, _CROSS_SITE),
        **dict.fromkeys(known.LOCATORS, _LOCATOR),
        **dict.fromkeys(known.AGGREGATORS, _AGGREGATOR),
        **dict.fromkeys(known.PERSISTORS, _PYTORCH_PERSISTOR),
        **dict.fromkeys(known.NUMPY_PERSISTORS, _NUMPY_PERSISTOR),
        **dict.fromkeys(known.GENERATORS, _NONE),
    }
)
"""By class."""


def check(component: Component, *, taken: Mapping[str, Any] = _NONE) -> None:
    """Refuse arguments that are not known, or would change the result.

    Args:
        component: of one of the classes in `KNOWN`.
        taken: further arguments that it may have, which the caller uses.

    Raises:
        BadWorkflow: names the first.
    """
    values = KNOWN[component.path]
    for key, value in component.args.items():
        if key in taken:
            continue
        if key not in values:
            raise BadWorkflow(f'{component.where}: the argument "{key}" is not known', why=f"of {component.path}")
        harmless = values[key]
        if not isinstance(harmless, _Any) and not any(_is_same(value, one) for one in harmless):
            raise BadWorkflow(
                f'{component.where}: "{key}" is not supported',
                why=f"{value!r} would change the result",
                hint="leave it out",
            )


def _is_same(value: Any, other: Any) -> bool:
    """Tell whether two values are equal and of one kind: a 1 is no True here."""
    return bool(value == other) and isinstance(value, bool) is isinstance(other, bool)

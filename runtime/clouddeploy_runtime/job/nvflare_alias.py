"""`import nvflare.client as flare` in a training script: the reference's names on our client API.

Only in a job's process, and only where NVFLARE is not installed; there its own client API would look for its own job.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from clouddeploy_runtime.job import client_api

_CLIENT = (
    *("FLModel", "ParamsType", "init", "receive", "send", "is_running", "is_train", "is_evaluate", "is_submit_model"),
    *("get_site_name", "get_job_id", "get_task_name", "get_config", "system_info", "shutdown", "clear"),
)


class FLMetaKey:
    """The reference's keys of an FLModel's `meta` and of `system_info`."""

    NUM_STEPS_CURRENT_ROUND = client_api.SAMPLES
    SITE_NAME = "site_name"
    JOB_ID = "job_id"


class ModelName:
    """Which of its models a site is asked for, in the `meta` of a task `submit_model`."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


class AppConstants:
    """The reference's keys of the `meta` of what a cross-site evaluation sends."""

    SUBMIT_MODEL_NAME = "submit_model_name"
    MODEL_OWNER = "model_owner"


class SummaryWriter:
    """The reference's writer of metrics; they go into the job's log at the site."""

    def __init__(self, *_arguments: Any, **_settings: Any) -> None:
        pass

    def add_scalar(self, tag: str, scalar: float, global_step: int | None = None, **_settings: Any) -> None:
        """Writes one value."""
        client_api.log_metric(tag, scalar, global_step=global_step)

    def add_scalars(self, tag: str, scalars: dict[str, float], global_step: int | None = None, **_more: Any) -> None:
        """Writes several values."""
        client_api.log_metric(tag, scalars, global_step=global_step)

    def flush(self) -> None:
        """Does nothing; every line is written at once."""


def install() -> None:
    """Puts the modules where `import` looks; a job process calls it before the script runs."""
    if "nvflare" in sys.modules or find_spec("nvflare") is not None:
        return
    client = {name: getattr(client_api, name) for name in _CLIENT} | {"log": client_api.log_metric}
    model = {"FLModel": client_api.FLModel, "ParamsType": client_api.ParamsType}
    for name, content in {
        "nvflare": {},
        "nvflare.client": client,
        "nvflare.client.api": client,
        "nvflare.client.tracking": {"SummaryWriter": SummaryWriter},
        "nvflare.app_common": {},
        "nvflare.app_common.app_constant": {"AppConstants": AppConstants, "ModelName": ModelName},
        "nvflare.app_common.abstract": {},
        "nvflare.app_common.abstract.fl_model": model,
        "nvflare.apis": {},
        "nvflare.apis.fl_constant": {"FLMetaKey": FLMetaKey},
    }.items():
        module = ModuleType(name, "The reference's names on clouddeploy's client API.")
        module.__path__ = []
        module.__dict__.update(content)
        sys.modules[name] = module
        parent, _, short = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], short, module)

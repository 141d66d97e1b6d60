"""The component classes a job may name, and what each of the reference's stands for here.

Pure data: the parents read it to check a job, the job process to build it. `kit_files/*_resources.json.default` of
provision lists the same names, so that a site can take some away.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMON, _OPT = "nvflare.app_common", "nvflare.app_opt"


class ComponentRefused(InvalidJob):
    """A job names a class, or brings code, that this site does not allow or cannot run."""

    error_code = "COMPONENT_REFUSED"


FEDAVG = frozenset(
    {
        "clouddeploy_runtime.job.fedavg.FedAvg",
        f"{_COMMON}.workflows.fedavg.FedAvg",
        f"{_OPT}.pt.recipes.fedavg.FedAvg",
    }
)
SCATTER_AND_GATHER = frozenset({f"{_COMMON}.workflows.scatter_and_gather.ScatterAndGather"})
CYCLIC = frozenset(
    {
        "clouddeploy_runtime.job.cyclic.Cyclic",
        f"{_COMMON}.workflows.cyclic.Cyclic",
        f"{_COMMON}.workflows.cyclic_ctl.CyclicController",
    }
)
GLOBAL_EVALUATIONS = frozenset({f"{_COMMON}.workflows.global_model_eval.GlobalModelEval"})
"""Those that evaluate the server's model alone."""
CROSS_SITE = GLOBAL_EVALUATIONS | {
    "clouddeploy_runtime.job.cross_site.CrossSiteEval",
    f"{_COMMON}.workflows.cross_site_eval.CrossSiteEval",
    f"{_COMMON}.workflows.cross_site_model_eval.CrossSiteModelEval",
}
LISTS_MODELS = frozenset({f"{_COMMON}.workflows.cross_site_eval.CrossSiteEval"})
"""An evaluation that names the server's models itself; the others have a component for it."""
PYTORCH_LOCATORS = frozenset({f"{_OPT}.pt.file_model_locator.PTFileModelLocator"})
LOCATORS = PYTORCH_LOCATORS | {f"{_COMMON}.np.np_model_locator.NPModelLocator"}
"""What says which of the server's models are evaluated."""
PYTORCH_EXECUTORS = frozenset(
    {
        f"{_OPT}.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
        f"{_OPT}.pt.in_process_client_api_executor.PTInProcessClientAPIExecutor",
    }
)
"""Executors whose scripts expect PyTorch tensors."""
EXECUTORS = PYTORCH_EXECUTORS | {
    f"{_COMMON}.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
    f"{_COMMON}.executors.client_api_launcher_executor.ClientAPILauncherExecutor",
}
SCRIPT_LAUNCHERS = frozenset({f"{_COMMON}.launchers.subprocess_launcher.SubprocessLauncher"})
NUMPY_PERSISTORS = frozenset(
    {
        f"{_COMMON}.np.np_model_persistor.NPModelPersistor",
        f"{_COMMON}.np.np_file_model_persistor.NPFileModelPersistor",
    }
)
PERSISTORS = NUMPY_PERSISTORS | {f"{_OPT}.pt.file_model_persistor.PTFileModelPersistor"}
AGGREGATORS = frozenset(
    {
        f"{_COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
        f"{_COMMON}.aggregators.InTimeAccumulateWeightedAggregator",
    }
)
GENERATORS = frozenset(
    {
        f"{_COMMON}.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
        f"{_COMMON}.shareablegenerators.FullModelShareableGenerator",
    }
)
"""What turns a model into the reference's messages; here that is the wire's own business."""
EXCLUDE_VARS = frozenset(
    {
        "clouddeploy_runtime.job.filters.ExcludeVars",
        f"{_COMMON}.filters.exclude_vars.ExcludeVars",
        f"{_COMMON}.filters.ExcludeVars",
    }
)
PERCENTILE_PRIVACY = frozenset(
    {
        "clouddeploy_runtime.job.percentile.PercentilePrivacy",
        f"{_COMMON}.filters.percentile_privacy.PercentilePrivacy",
        f"{_COMMON}.filters.PercentilePrivacy",
    }
)
SVT_PRIVACY = frozenset(
    {
        "clouddeploy_runtime.job.dp.SVTPrivacy",
        f"{_COMMON}.filters.svt_privacy.SVTPrivacy",
        f"{_COMMON}.filters.SVTPrivacy",
    }
)
GAUSSIAN_PRIVACY = frozenset(
    {
        "clouddeploy_runtime.job.dp.GaussianPrivacy",
        "nvflare_gradinv.filters.gaussian_privacy.GaussianPrivacy",
    }
)
CLIPPED_NOISE = frozenset({"clouddeploy_runtime.job.dp.ClippedNoise"})
FILTERS = EXCLUDE_VARS | PERCENTILE_PRIVACY | SVT_PRIVACY | GAUSSIAN_PRIVACY | CLIPPED_NOISE
OBSERVERS = frozenset(
    {
        f"{_COMMON}.np.np_formatter.NPFormatter",
        f"{_COMMON}.widgets.convert_to_fed_event.ConvertToFedEvent",
        f"{_COMMON}.widgets.external_configurator.ExternalConfigurator",
        f"{_COMMON}.widgets.intime_model_selector.IntimeModelSelector",
        f"{_COMMON}.widgets.metric_relay.MetricRelay",
        f"{_COMMON}.widgets.validation_json_generator.ValidationJsonGenerator",
        f"{_OPT}.tracking.tb.tb_receiver.TBAnalyticsReceiver",
        "nvflare.fuel.utils.pipe.cell_pipe.CellPipe",
        "nvflare.fuel.utils.pipe.file_pipe.FilePipe",
    }
)
"""Left out with a line in the job's log: they watch or carry, and no parameter depends on them."""
ALL = (
    FEDAVG
    | SCATTER_AND_GATHER
    | CYCLIC
    | CROSS_SITE
    | LOCATORS
    | EXECUTORS
    | SCRIPT_LAUNCHERS
    | PERSISTORS
    | AGGREGATORS
    | GENERATORS
    | FILTERS
    | OBSERVERS
)

_OWN = "of your own in custom/ derived from clouddeploy_runtime.job"
INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "workflows": f"FedAvg, Cyclic and CrossSiteEval, or a controller {_OWN}.controller.Controller",
        "executors": "InProcessClientAPIExecutor with your training script",
        "filters": f"ExcludeVars, PercentilePrivacy, SVTPrivacy, GaussianPrivacy, or a filter {_OWN}.filters.Filter",
        "components": "FedAvg's own aggregation and model file",
    }
)
"""By the part of a configuration: what we have where the reference has more."""

"""Runs the builders over the kits, in the order that the Open Provision API promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy_provision.builders import catalogue
from clouddeploy_provision.builders.archive import ZipBuilder
from clouddeploy_provision.errors import BuilderFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_provision.project import Project
    from clouddeploy_provision.spec import Context


class Pipeline:
    """The builders of one project.

    Args:
        project: the project.
        custom: where builders that are not bundled come from.
        bundled_only: leave out the user's own.
    """

    def __init__(self, project: Project, custom: catalogue.Custom, *, bundled_only: bool = False) -> None:
        self._project = project
        steps = [step for step in project.builders if not (bundled_only and catalogue.is_custom(step))]
        self.has_custom = any(catalogue.is_custom(step) for step in steps)
        made = [(step.path, catalogue.make(step, custom)) for step in steps]
        self._builders = [(path, one) for path, one in made if one is not None and not isinstance(one, ZipBuilder)]
        self.archives: ZipBuilder | None = next((one for _, one in made if isinstance(one, ZipBuilder)), None)
        packager = None if bundled_only else project.packager
        self._packager = (packager.path, catalogue.make(packager, custom)) if packager is not None else None

    def run(self, ctx: Context) -> None:
        """Call every builder's methods.

        Raises:
            BuilderFailed: one of them failed, or reported an error.
        """
        for phase in ("initialize", "build"):
            for path, builder in self._builders:
                self._call(path, builder, phase, ctx)
        for path, builder in reversed(self._builders):
            self._call(path, builder, "finalize", ctx)
        self._refuse_errors(ctx)
        ctx.settle()

    def package(self, ctx: Context) -> None:
        """Call the packager on the finished kits.

        Raises:
            BuilderFailed: it failed, or reported an error.
        """
        if self._packager is not None:
            self._call(*self._packager, "package", ctx)
            self._refuse_errors(ctx)

    def _call(self, path: str, builder: Any, method: str, ctx: Context) -> None:
        found: Callable[..., object] | None = getattr(builder, method, None)
        if found is None:
            return
        try:
            found(self._project, ctx)
        except ClouddeployError:
            raise
        except Exception as exc:
            raise BuilderFailed(
                f"the builder {path} failed in {method}",
                why=f"{type(exc).__name__}: {exc}",
                hint="-v shows where; no kit of this run was kept",
            ) from exc

    def _refuse_errors(self, ctx: Context) -> None:
        if ctx.errors:
            raise BuilderFailed("a builder reported an error", why="; ".join(ctx.errors), hint="no kit was kept")

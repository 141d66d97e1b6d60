"""Runs the builders over the kits, in the order that the Open Provision API promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy_provision.builders import catalogue
from clouddeploy_provision.builders.archive import ZipBuilder
from clouddeploy_provision.errors import BuilderFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_provision.kit_tree import File
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
        self._custom = custom
        self._reported: list[str] = []
        steps = [step for step in project.builders if not (bundled_only and catalogue.is_custom(step))]
        self.has_custom = any(catalogue.is_custom(step) for step in steps)
        made = [(step.path, catalogue.make(step, custom)) for step in steps]
        self._builders = [(path, one) for path, one in made if one is not None and not isinstance(one, ZipBuilder)]
        self.archives: ZipBuilder | None = next((one for _, one in made if isinstance(one, ZipBuilder)), None)
        packager = None if bundled_only else project.packager
        self._packager = (packager.path, catalogue.make(packager, custom)) if packager is not None else None

    def run(self, ctx: Context) -> None:
        """Call every builder's methods, and read back what they wrote.

        Raises:
            BuilderFailed: one of them failed, reported an error, or left a kit that cannot be one.
        """
        needed = {name: _needed(files) for name, files in ctx.kits.items()}
        ctx.begin(self._project)
        try:
            for phase in ("initialize", "build"):
                for path, builder in self._builders:
                    self._call(path, builder, phase, ctx)
            for path, builder in reversed(self._builders):
                self._call(path, builder, "finalize", ctx)
            self._refuse_errors()
            ctx.settle()
        finally:
            ctx.discard()
        for name, paths in needed.items():
            gone = sorted(paths - set(ctx.kits.get(name, ())))
            if gone:
                raise BuilderFailed(
                    f"the kit of {name} cannot be used",
                    why=f"a builder removed {', '.join(gone)}",
                    hint="a builder may add files and exchange them; no kit of this run was kept",
                )

    def package(self, ctx: Context) -> None:
        """Call the packager on the finished kits.

        Raises:
            BuilderFailed: it failed, or reported an error.
        """
        if self._packager is not None:
            self._call(*self._packager, "package", ctx)
            self._refuse_errors()

    def _call(self, path: str, builder: Any, method: str, ctx: Context) -> None:
        found: Callable[..., object] | None = getattr(builder, method, None)
        if found is None:
            return
        before = len(ctx.errors)
        what, hint = f"the builder {path} failed in {method}", "-v shows where; no kit of this run was kept"
        try:
            with self._custom.importable():
                found(self._project, ctx)
        except ClouddeployError as exc:
            raise BuilderFailed(what, why=str(exc), hint=exc.hint or hint) from exc
        except (Exception, SystemExit) as exc:
            raise BuilderFailed(what, why=f"{type(exc).__name__}: {exc}", hint=hint) from exc
        self._reported += [f"{path}: {text}" for text in ctx.errors[before:]]

    def _refuse_errors(self) -> None:
        if self._reported:
            raise BuilderFailed("a builder reported an error", why="; ".join(self._reported), hint="no kit was kept")


def _needed(files: Mapping[str, File]) -> set[str]:
    """Return the paths without which this is no kit."""
    return {path for path in files if path.endswith((".crt", ".key", "/rootCA.pem")) or path.startswith("startup/fed_")}

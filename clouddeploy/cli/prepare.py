"""`prepare`, and the commands below it for one runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_runtime.errors import printable

from clouddeploy.cli.main import command_options
from clouddeploy.cli.prepare_k8s import k8s

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session
    from clouddeploy.prepare.preparing import Prepared

_PATH = click.Path(path_type=Path)
FORMS = ("text", "json")


class _KitOrCommand(click.Group):
    """Takes a kit, or one of its own commands as its first word; a kit of that name is `./k8s`."""

    allow_extra_args = False
    allow_interspersed_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.args = args
            return args
        return click.Command.parse_args(self, ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return click.Command.collect_usage_pieces(self, ctx)

    def invoke(self, ctx: click.Context) -> Any:
        if not (ctx.args and ctx.args[0] in self.commands):
            return click.Command.invoke(self, ctx)
        name, command, rest = self.resolve_command(ctx, ctx.args)
        if command is None:
            return None
        with command.make_context(name, rest, parent=ctx) as inner:
            return command.invoke(inner)


@click.group(cls=_KitOrCommand)
@click.argument("kit", type=_PATH, required=False)
@click.option("--kit", "other", type=_PATH, help="The kit, as in the reference's command.")
@click.option("--config", type=_PATH, help="Says for which runtime, as YAML; default: config.yaml in the kit.")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="DIR",
    help="Where to; default: prepared/<runtime> in the kit. `text` and `json` mean the form of the result.",
)
@command_options(form_flag="--format")
def prepare(
    session: Session, *, kit: Path | None, other: Path | None, config: Path | None, outputs: tuple[str, ...]
) -> None:
    """Make a startup kit ready for docker, Kubernetes or Slurm; the kit itself stays as it is."""
    from clouddeploy.prepare import preparing  # noqa: PLC0415 - --help needs no kits and no YAML

    forms = [one for one in outputs if one in FORMS]
    targets = [Path(one) for one in outputs if one not in FORMS]
    if "json" in forms:
        session.output.as_json = True
    given = [one for one in (kit, other) if one is not None]
    if len(given) != 1:
        raise click.UsageError("name one startup kit, as KIT or with --kit")
    if len(targets) > 1:
        raise click.UsageError("--output names more than one folder")
    made = preparing.prepare(given[0], config=config, target=targets[0] if targets else None)
    session.output.result(made.document(), _text(made))


for _name in ("k8s", "k8"):
    prepare.add_command(k8s, _name)


def _text(made: Prepared) -> str:
    kit = made.kit
    lines = [f"{kit.kind} {kit.name} is ready for {made.runtime} in {kit.output}"]
    lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in made.more.items()]
    if made.is_kept:
        lines.append("  kept: local/study_runtime.yaml, which was edited there")
    if made.backup is not None:
        lines.append(f"  what was there before and differs: {made.backup}")
    lines += [f"  warning: {one}" for one in made.warnings]
    return "\n".join(printable(line) for line in lines)

"""One startup kit to a machine of a cloud in one step: writes its deploy file, which every other command then knows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy import durable
from clouddeploy.cloud_config import AWS, AZURE, SETTINGS
from clouddeploy.errors import ConfigError
from clouddeploy.stores.base import STATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy.lone_kit import LoneKit

WHERE: Mapping[str, str] = {AWS: "region", AZURE: "location"}
"""By cloud: its word for where a machine is."""
DEFAULT_PLACE: Mapping[str, str] = {AWS: "us-west-2", AZURE: "westus2"}
"""Those of the reference."""
OWN: Mapping[str, frozenset[str]] = {
    cloud: frozenset({*keys.values(), "container"}) for cloud, keys in SETTINGS.items()
}
"""By cloud: the keys of a site that launch takes from its options."""
NEED = ("gpus", "gpu_memory_gib")
MADE_HERE = frozenset({"provider", "dns_label", *NEED})
"""The keys of a site that launch writes by itself."""
TOP = frozenset({"version", "kit", "runtime", "ssh_sources", "sites"})
AZURE_NAME = re.compile(r"([a-z][a-z0-9-]{1,61}[a-z0-9])\.([a-z0-9]+)\.cloudapp\.azure\.com")
"""Azure's own names of public addresses: label and location."""
HEAD = """\
# Written by `clouddeploy launch`. Every command takes it: plan, apply, status, destroy, ssh --file. Edit it as you
# like (docs/deploy-file.md): once it has keys that launch does not write, launch uses it as it is.
"""


@dataclass(frozen=True)
class Wish:
    """What the user asks for.

    Attributes:
        cloud: `aws` or `azure`.
        settings: keys of the site; only those that were named.
        ssh_sources: who may reach port 22; empty: the address this machine is seen from.
    """

    cloud: str
    settings: Mapping[str, str] = field(default_factory=dict)
    ssh_sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses options that the cloud does not have."""
        strange = sorted(set(self.settings) - OWN[self.cloud])
        if strange:
            other = AWS if self.cloud == AZURE else AZURE
            raise ConfigError(
                f"{', '.join(strange)} cannot be chosen in {self.cloud}",
                why=f"{'these are words' if len(strange) > 1 else 'this is a word'} of {other}",
                hint=f"{self.cloud} has {', '.join(sorted(OWN[self.cloud]))}; the deploy file has more keys",
            )


@dataclass(frozen=True)
class Prepared:
    """The deploy file of a launch.

    Attributes:
        file: where it is.
        before: its text before; None: there was none.
        text: its text now.
        note: what the user should know about it; empty for nothing.
    """

    file: Path
    before: str | None
    text: str
    note: str = ""

    def save(self) -> None:
        """Writes the file, unless it is like that already.

        Raises:
            ConfigError: its folder cannot be written.
        """
        if self.text != self.before:
            try:
                durable.replace(self.file, self.text)
            except OSError as error:
                raise _unwritable(self.file, error) from error

    def undo(self) -> None:
        """Brings back what was there before, unless another run has gone on with what is there now."""
        if self.text == self.before or not self.file.exists() or self.file.read_text(encoding="utf-8") != self.text:
            return
        if self.before is not None:
            durable.replace(self.file, self.before)
        elif not (self.file.parent / ".clouddeploy" / self.file.stem / STATE).exists():
            self.file.unlink(missing_ok=True)


def deploy_file(kit: LoneKit) -> Path:
    """Returns where the deploy file of a kit is: beside it, named as the participant."""
    return kit.folder.parent / f"{kit.participant}.deploy.yml"


def defaults(kit: LoneKit, cloud: str) -> dict[str, Any]:
    """Returns what a site gets of which nothing is asked, as keys of the deploy file.

    A server that clients know by Azure's own name of an address gets that name, in the location that is part of it. A
    kit that offers GPUs to jobs gets the cheapest machine that has them.
    """
    found: dict[str, Any] = {WHERE[cloud]: DEFAULT_PLACE[cloud]}
    named = AZURE_NAME.fullmatch(kit.server.lower())
    if cloud == AZURE and kit.is_server and named:
        found |= {"location": named[2], "dns_label": named[1]}
    if kit.need is not None:
        found["gpus"] = kit.need.gpus
        if kit.need.gpu_memory_gib:
            found["gpu_memory_gib"] = kit.need.gpu_memory_gib
    return found


def prepare(kit: LoneKit, wish: Wish) -> Prepared:
    """Returns the deploy file for a kit, new or with what is asked for now; writes nothing.

    Raises:
        ConfigError: the file that is there is another deployment's, or the wish contradicts the kit.
    """
    file = deploy_file(kit)
    given = {key: value for key, value in wish.settings.items() if value}
    chosen = defaults(kit, wish.cloud)
    if "dns_label" in chosen and given.get("location", chosen["location"]).lower() != chosen["location"]:
        raise ConfigError(
            f"the server cannot be in {given['location']}",
            why=f"its clients know it as {kit.server}, a name that Azure gives in {chosen['location']} alone",
            hint=f"choose {chosen['location']}, or ask the project admin for kits with another name of the server",
        )
    if not file.exists():
        site = _with({"provider": wish.cloud, **chosen}, given)
        return Prepared(file, None, _text(kit, site, wish.ssh_sources))
    before, document = _read(file)
    site = _site_of(document, kit, wish, file)
    wanted = _with(site, given)
    sources = list(wish.ssh_sources) or document.get("ssh_sources") or []
    if wanted == site and sources == (document.get("ssh_sources") or []):
        return Prepared(file, before, before, note=f"{file} is used as it is")
    own = sorted(map(str, [*(set(document) - TOP), *(set(site) - OWN[wish.cloud] - MADE_HERE)]))
    if own:
        changed = sorted(str(key) for key in wanted if wanted[key] != site.get(key))
        return Prepared(
            file,
            before,
            before,
            note=f"{file} has keys of your own ({', '.join(own)}), so it is used as it is, without "
            f"{', '.join([*changed, *(['ssh_sources'] if wish.ssh_sources else [])])}: write that into it",
        )
    text = _text(kit, wanted, tuple(sources), runtime=document.get("runtime"))
    return Prepared(file, before, text, note=f"{file} is changed")


def _with(site: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Returns a site with what is asked for; a size that is named leaves no need."""
    drop = NEED if "size" in given else ()
    return {**{key: value for key, value in site.items() if key not in drop}, **given}


def _text(kit: LoneKit, site: Mapping[str, Any], ssh_sources: tuple[str, ...], *, runtime: object = None) -> str:
    document: dict[str, Any] = {"version": 1, "kit": kit.folder.name}
    if runtime is not None:
        document["runtime"] = runtime
    if ssh_sources:
        document["ssh_sources"] = list(ssh_sources)
    document["sites"] = {kit.participant: dict(site)}
    return HEAD + yaml.safe_dump(document, sort_keys=False)


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file} cannot be read", why=str(error), hint="correct it, or move it away if nothing was launched with it"
        ) from error
    return text, document if isinstance(document, dict) else {}


def _site_of(document: Mapping[str, Any], kit: LoneKit, wish: Wish, file: Path) -> dict[str, Any]:
    sites = document.get("sites")
    site = sites.get(kit.participant) if isinstance(sites, dict) else None
    named = document.get("kit")
    if not isinstance(site, dict) or not isinstance(named, str) or (file.parent / named).resolve() != kit.folder:
        raise ConfigError(
            f"{file} is not the deploy file of this kit",
            why=f"it does not deploy {kit.participant} with `kit: {kit.folder.name}`",
            hint="move it away, or name the deploy file itself: clouddeploy apply FILE",
        )
    if site.get("provider") != wish.cloud:
        raise ConfigError(
            f"{kit.participant} is launched in {site.get('provider')}, not in {wish.cloud}",
            why=f"{file} says so, and it may have a machine there",
            hint=f"first `clouddeploy destroy {file}` and remove that file",
        )
    return dict(site)


def _unwritable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{file} cannot be written", why=str(error), hint="copy the kit into a folder of your own and launch it there"
    )

"""What happens on a machine once it exists: connect, install, start, wait until it is ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.resources import Kind

from clouddeploy.scheduler import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.ledger import Ledger
    from clouddeploy.plan import Wanted
    from clouddeploy.remote.bootstrap import Release
    from clouddeploy.remote.host import Host
    from clouddeploy.state import State

    Kits = Callable[["Address"], Mapping[str, Path]]
    Install = Callable[[str, Host, Path | None], Release]

KITS = "kits"
"""The name of the step that signs."""


@dataclass(frozen=True)
class Address:
    """Where the server is reached."""

    host: str
    names: tuple[str, ...] = ()
    """DNS names beside it, for the certificate."""


@dataclass(frozen=True)
class SiteWork:
    """What is done on a machine; the deployment supplies it, so that the steps know no SSH."""

    kits: Kits
    """Takes the server's address, provisions, and returns each participant's kit."""
    open: Callable[[str, ResourceRef], Host]
    install: Install
    """Takes the kit; None for a site whose key is made on its machine."""
    start: Callable[[str, Host, Release], None]
    wait_ready: Callable[[str, Host, Release, str], None]
    """Takes the machine's address last: the server answers with our certificate, or a client is registered."""
    user_data: Callable[[Wanted, str], str]
    """Takes the machine and when it switches itself off."""
    kits_title: str = "sign kits"
    """What `kits` does, in words."""
    ready_title: str = "answer with our certificate"
    """What a server does once it is ready, in words."""


class Progress:
    """What one run of apply has reached so far; written by the owning thread, read by workers after it."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.releases: dict[str, Release] = {}
        self.kits: dict[str, Path] = {}
        self.ready_after_s: dict[str, float] = {}

    def close(self) -> None:
        """Ends every connection."""
        for host in self.hosts.values():
            host.close()


def kits_step(site: str, *, nodes: frozenset[str], state: State, work: SiteWork, progress: Progress) -> Step:
    """Returns the step that signs kits, once the server's address is known.

    Args:
        site: the server's; the one there is, where a client's kit is deployed alone.
        nodes: every node that is wanted.
        state: has the address by then.
        work: signs.
        progress: takes the kits.
    """
    reserved = f"{site}/{Kind.ADDRESS.value}"
    need = reserved if reserved in nodes else f"{site}/{Kind.MACHINE.value}"
    found: list[Address] = []

    def before() -> None:
        outputs = state.resources[need].ref.outputs
        names = (outputs["dns_name"],) if outputs.get("dns_name") else ()
        found[:] = [Address(outputs["address"], names)]

    return Step(
        name=KITS,
        site="project",
        title=work.kits_title,
        needs=(need,),
        before=before,
        work=lambda: work.kits(found[0]),
        after=progress.kits.update,
    )


def site_steps(
    site: str,
    *,
    server: str | None,
    ledger: Ledger,
    work: SiteWork,
    progress: Progress,
    on_ready: Callable[[str], None],
    waits_for: tuple[str, ...] = (),
) -> list[Step]:
    """Returns the steps from a machine to a running site.

    Args:
        site: the site.
        server: the server's site; a client starts once that is ready. None: the server is not of this deployment.
        ledger: has the machine, and takes what is installed.
        work: does it.
        progress: takes connections and releases.
        on_ready: called in the owning thread once the site is ready.
        waits_for: further steps before the start.
    """
    machine, state = f"{site}/{Kind.MACHINE.value}", ledger.state

    def ref() -> ResourceRef:
        return state.resources[machine].ref

    def opened(host: Host) -> None:
        progress.hosts[site] = host

    def installing() -> None:
        if site not in state.sites:
            state.sites[site] = {}  # something may be there from now on, even if this run never says what
            ledger.touch()

    def installed(release: Release) -> None:
        progress.releases[site] = release
        ledger.installed(site, release)

    def wait() -> None:
        work.wait_ready(site, progress.hosts[site], progress.releases[site], ref().outputs["address"])

    is_server = site == server

    def step(name: str, title: str, *needs: str, work: Callable[[], Any], **more: Any) -> Step:
        return Step(f"{site}/{name}", site, title, needs=needs, work=work, **more)

    return [
        step("connect", "connect", machine, work=lambda: work.open(site, ref()), after=opened),
        step(
            "install",
            "install",
            f"{site}/connect",
            KITS,
            work=lambda: work.install(site, progress.hosts[site], progress.kits.get(site)),
            before=installing,
            after=installed,
        ),
        step(
            "start",
            "start",
            f"{site}/install",
            *waits_for,
            *(() if server is None or is_server else (f"{server}/ready",)),
            work=lambda: work.start(site, progress.hosts[site], progress.releases[site]),
        ),
        step(
            "ready",
            work.ready_title if is_server else "register",
            f"{site}/start",
            work=wait,
            after=lambda _: on_ready(site),
        ),
    ]

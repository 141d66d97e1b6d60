"""Sites with `keys: on-site`: the private key is made on the machine and stays there, only the certificate travels."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_provision import site_keys
from clouddeploy_provision.builders import catalogue
from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.keys import KeyAlgorithm

from clouddeploy.errors import ConfigError, StateError
from clouddeploy.remote import bootstrap, site_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import Endpoint
    from clouddeploy_provision.site_keys import Answered

    from clouddeploy.remote.container import Image
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.wheels import PythonTarget, Wheelhouse
    from clouddeploy.secrets import Secret

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Enrolled:
    """A site that was installed with the key of its machine."""

    release: bootstrap.Release
    answered: Answered
    """Which certificate it has, and why it is another one than before."""


def check(project: Project, workspace: Path, *, on_site: Iterable[str], central: Iterable[str]) -> None:
    """Refuses sites that cannot get their keys as the deploy file says; contacts nobody and changes nothing.

    Args:
        project: the project file.
        workspace: where its certificate authority is, if there is one yet.
        on_site: sites with `keys: on-site`.
        central: all others.

    Raises:
        ConfigError: with every one of them.
    """
    problems = []
    for site in on_site:
        try:
            site_keys.expected(project, site)
        except ClouddeployError as error:
            problems.append(f"{error.what}: {error.why}")
    away = site_keys.keyed_on_site(workspace / project.name / "state")
    problems += [
        f"{site} made its private key itself, so there is no kit for it here: write `keys: on-site`, or revoke its "
        f"certificate and renew it with a new key"
        for site in sorted(away.intersection(central))
    ]
    if problems:
        raise ConfigError(
            "keys cannot be made as the deploy file says", why="; ".join(problems), hint="correct `keys` of these sites"
        )


def due(project: Project, workspace: Path, site: str) -> str:
    """Says why a site will get another certificate, as far as its machine need not be asked; empty: it keeps its own.

    For a plan: changes nothing and needs no passphrase.

    Raises:
        ClouddeployError: the authority's folder is damaged, or the site cannot make its key.
    """
    answer_zip = _answer_of(project, workspace, site)
    return site_keys.due(answer_zip, workspace / project.name / "state", project=project, name=site)


def _answer_of(project: Project, workspace: Path, site: str) -> Path:
    """Returns where the last answer to a site is kept; nothing in it is secret."""
    return workspace / project.name / "enrolled" / site / f"{site}.signed.zip"


class Enroller:
    """Installs the sites of one run whose keys are made on their machines; may be used by several threads at once.

    Every step may be repeated, also after a kill between any two: a key is made once, and an answer that still holds
    stays byte for byte, so that its site is left alone.

    Args:
        project: the project file.
        workspace: the project's certificate authority is in `<workspace>/<project>/state`, made by `provision`.
        passphrase: of that authority.
        endpoint: where the server is reached.
        extra_server_hosts: further addresses and names for a certificate of the server.
    """

    def __init__(
        self,
        project: Project,
        workspace: Path,
        *,
        passphrase: Secret,
        endpoint: Endpoint,
        extra_server_hosts: Sequence[str] = (),
    ) -> None:
        self._project = project
        self._workspace = workspace
        self._passphrase = passphrase
        self._endpoint = endpoint
        self._extra_server_hosts = extra_server_hosts
        self._lock = threading.Lock()  # the authority's own refuses a second user instead of letting it wait

    def install(
        self,
        site: str,
        host: Host,
        *,
        data: Path | None,
        wheelhouse_for: Callable[[PythonTarget], Wheelhouse | Image],
        timeout_s: float,
    ) -> Enrolled:
        """Installs a site like `bootstrap.install`, but for its key, which its machine makes.

        Args:
            site: the participant's name.
            host: its machine, connected under a pinned host key: that is what tells that the request is the site's.
            data: a folder that the site's jobs read; None for none.
            wheelhouse_for: gives the runtime and its dependencies for the machine's Python, or the image to run in.
            timeout_s: for the installation itself.

        Raises:
            ClouddeployError: a step failed; running it again goes on from there.
        """
        wanted = site_keys.expected(self._project, site)
        prepared = bootstrap.prepare(
            host,
            project=self._project.name,
            site=site,
            data=data,
            wheelhouse_for=wheelhouse_for,
            timeout_s=timeout_s,
        )
        request = site_key.ask(host, prepared, wanted, algorithm=self._algorithm)
        answered = self.answer(site, request)
        digest = site_key.package(
            host, prepared, site, answer=answered.archive, fingerprint=answered.rootca_fingerprint
        )
        release = bootstrap.activate(host, prepared, digest, timeout_s=timeout_s)
        return Enrolled(release, answered)

    def answer(self, site: str, request: bytes) -> Answered:
        """Answers what a site's machine asks, with the certificate in force where there is one for its key.

        Raises:
            ClouddeployError: the request is not that of this site, or the authority cannot be used.
        """
        answer_zip = _answer_of(self._project, self._workspace, site)
        request_zip = answer_zip.with_name(f"{site}.request.zip")
        with self._lock:
            try:
                answer_zip.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(request_zip, request)
            except OSError as error:
                raise StateError(
                    f"cannot keep the request of {site}, {request_zip}", why=str(error), hint="make room, then repeat"
                ) from error
            answered = site_keys.answer(
                request_zip,
                answer_zip,
                self._workspace / self._project.name / "state",
                project=self._project,
                name=site,
                passphrase=self._passphrase.reveal_bytes(),
                endpoint=self._endpoint,
                extra_server_hosts=self._extra_server_hosts,
            )
        if answered.reason:
            log.info("%s has a certificate: %s", site, answered.reason, extra={"site": site})
        if answered.superseded:
            log.warning(
                "%s has another certificate than before; the earlier one, %s, stays valid until it ends. If somebody "
                "may have its key: clouddeploy cert revoke %s --serial %s",
                site,
                answered.superseded,
                site,
                answered.superseded,
                extra={"site": site},
            )
        return answered

    @property
    def _algorithm(self) -> KeyAlgorithm:
        given = catalogue.argument(self._project.builders, "CertBuilder", "key_algorithm")
        return KeyAlgorithm(given) if given else KeyAlgorithm.P256

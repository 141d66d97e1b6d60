"""A site's private key, made on its machine: it asks for a certificate there, and makes its kit from the answer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from clouddeploy_runtime.enrolment.archive import MAX_ARCHIVE

from clouddeploy.errors import RemoteCommandFailed
from clouddeploy.remote import bootstrap

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.enrolment.formats import Site
    from clouddeploy_runtime.keys import KeyAlgorithm

    from clouddeploy.remote.bootstrap import Prepared
    from clouddeploy.remote.host import Host

STEP_S = 60.0


def ask(host: Host, prepared: Prepared, site: Site, *, algorithm: KeyAlgorithm) -> bytes:
    """Makes the site's private key there unless it has one, and returns its request, in which nothing is secret.

    Args:
        host: the machine, connected under a pinned key: who answers there is the site.
        prepared: what `bootstrap.prepare` made.
        site: whom it asks for.
        algorithm: of a new key.

    Raises:
        DeployError: the key or the request could not be made or read.
    """
    words = ["--project", site.project, "--org", site.org, "--type", site.type, "--key-algorithm", algorithm.value]
    said = bootstrap.run(host, STEP_S, "request", prepared.root, prepared.wheels, site.name, *words)
    path = f"{prepared.root}/enrolment/{site.name}/{site.name}.request.zip"
    request = host.read(path, limit=MAX_ARCHIVE)
    if request is None:
        raise RemoteCommandFailed(
            f"{host.name} made no request for a certificate",
            status=0,
            tail=said or f"{path} is missing",
            hint="run the same command again",
        )
    return request


def package(host: Host, prepared: Prepared, name: str, *, answer: Path, fingerprint: str) -> str:
    """Has the machine make its kit from the project's answer and its own key; returns the digest of that release.

    Args:
        host: the machine.
        prepared: what `bootstrap.prepare` made.
        name: of the participant.
        answer: the signed archive.
        fingerprint: of the root that must have signed it.

    Raises:
        DeployError: the machine refused the answer.
    """
    digest = hashlib.sha256(answer.read_bytes()).hexdigest()[:16]
    bootstrap.send(host, prepared, answer, f"answer-{digest}.zip")
    bootstrap.run(host, STEP_S, "package", prepared.root, prepared.wheels, name, digest, fingerprint)
    return digest

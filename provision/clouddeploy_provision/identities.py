"""Gives participants their keys and certificates: carried over from the last result, or made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clouddeploy_runtime import keys
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision.ca_records import Issued
from clouddeploy_provision.errors import ResultError
from clouddeploy_provision.kit_tree import PRIVATE, File
from clouddeploy_provision.previous import LISTENER_CERT, LISTENER_KEY, CertificateRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from datetime import datetime

    from cryptography import x509

    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.drafts import Draft
    from clouddeploy_provision.project import Participant


class Identities:
    """Makes them in one run.

    Args:
        authority: who issues.
        algorithm: of new keys.
        now: the time of issue.
    """

    def __init__(self, authority: Authority, algorithm: keys.KeyAlgorithm, *, now: datetime) -> None:
        self._authority = authority
        self._algorithm = algorithm
        self._now = now
        self._fresh: dict[bytes, x509.Certificate] = {}
        """What was issued in this run, by its PEM form."""
        self.issued: list[Issued] = []
        """What the authority must remember, in order."""

    def complete(self, drafts: Sequence[Draft], kits: Mapping[str, MutableMapping[str, File]]) -> None:
        """Put keys and certificates into kits.

        Args:
            drafts: whose.
            kits: participant's name → its files so far.

        Raises:
            ResultError: a kit of the last result is not as it was signed any more.
        """
        made = self._make_keys(sum(draft.needs_key for draft in drafts) + sum(draft.needs_listener for draft in drafts))
        for draft in drafts:
            files = kits[draft.participant.name]
            files.update(self._certified(draft, made))
            if draft.listens:
                files.update(self._listener(draft, made))

    def record(self, pem: bytes, draft: Draft, *, is_listener: bool = False) -> CertificateRecord:
        """Describe a certificate that stands in a kit.

        Raises:
            ResultError: it is none of ours.
        """
        fresh = self._fresh.get(pem)
        if fresh is not None:
            return CertificateRecord.of(fresh, self._authority.certificate)
        kept = draft.previous.record if draft.previous is not None else None
        found = None if kept is None else kept.listener if is_listener else kept.certificate
        if found is None:
            raise ResultError(
                f"{draft.participant.name} has no certificate", why="a builder exchanged it", hint="leave it"
            )
        return found

    def _make_keys(self, count: int) -> list[keys.PrivateKey]:
        """Make private keys on every core: OpenSSL lets go of the interpreter while it looks for primes."""
        if count > 1 and self._algorithm is keys.KeyAlgorithm.RSA_2048:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda _: keys.generate(self._algorithm), range(count)))
        return [keys.generate(self._algorithm) for _ in range(count)]

    def _certified(self, draft: Draft, made: list[keys.PrivateKey]) -> dict[str, File]:
        key_path, cert_path = f"startup/{draft.stem}.key", f"startup/{draft.stem}.crt"
        if draft.previous is not None and not draft.needs_certificate:
            key_pem, cert_pem = draft.previous.read(key_path, cert_path)
            return {key_path: File(key_pem, PRIVATE), cert_path: File(cert_pem)}
        if draft.previous is None or draft.needs_key:
            key = made.pop()
            key_pem = keys.to_pem(key)
        else:
            (key_pem,) = draft.previous.read(key_path)
            key = keys.from_pem(key_pem)
        cert = self._authority.issue(draft.participant, key.public_key(), hosts=draft.hosts, now=self._now)
        return {key_path: File(key_pem, PRIVATE), cert_path: self._note(draft.participant, cert)}

    def _listener(self, draft: Draft, made: list[keys.PrivateKey]) -> dict[str, File]:
        if draft.previous is not None and not draft.needs_listener:
            key_pem, cert_pem = draft.previous.read(LISTENER_KEY, LISTENER_CERT)
            return {LISTENER_KEY: File(key_pem, PRIVATE), LISTENER_CERT: File(cert_pem)}
        key, one = made.pop(), draft.participant
        listening = one.listening
        hosts = (listening.host, *listening.hosts) if listening is not None else ()
        cert = self._authority.issue_listener(one, key.public_key(), hosts=hosts, now=self._now)
        return {
            LISTENER_KEY: File(keys.to_pem(key), PRIVATE),
            LISTENER_CERT: self._note(one, cert, is_listener=True),
        }

    def _note(self, one: Participant, cert: x509.Certificate, *, is_listener: bool = False) -> File:
        self.issued.append(Issued.of(one, cert, listener=is_listener))
        pem = cert.public_bytes(Encoding.PEM)
        self._fresh[pem] = cert
        return File(pem)

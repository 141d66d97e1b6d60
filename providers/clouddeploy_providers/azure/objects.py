"""An Azure Blob container as shared storage, with conditional writes.

Needs the role Storage Blob Data Contributor on the container, which it needs to exist.

Source:
    https://learn.microsoft.com/azure/storage/blobs/concurrency-manage
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from azure.core import MatchConditions, exceptions
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient

from clouddeploy_providers.azure.errors import HINTS, LOGIN_HINT, kind_of, translated
from clouddeploy_providers.errors import AccessDenied, AuthenticationError, Conflict, InvalidRequest, NotFound
from clouddeploy_providers.object_store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clouddeploy_providers.object_store import ObjectStore

SUFFIX = "blob.core.windows.net"
"""Of the public cloud; an account of a sovereign one is written with its whole host name."""
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
"""The variable that `az storage` reads too: for accounts with keys, and for emulators."""
STORAGE_HINTS = {
    AuthenticationError: f"{LOGIN_HINT}, or correct {CONNECTION}",
    AccessDenied: "ask for the role Storage Blob Data Contributor on the container (owning it is not enough)"
    f", or correct {CONNECTION}",
    NotFound: "make the container, docs/state.md says how, or correct its name",
}
CLI_S = 60
"""`az` needs more than the default of 10 seconds when several run at once (Azure/azure-sdk-for-python#37739)."""
# Repeating is up to the caller, who knows how long the lock is still held; the SDK would wait for 15 seconds first.
PATIENCE: Final[dict[str, Any]] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}


class BlobObjects:
    """Blobs of one container below a prefix; see `ObjectStore`.

    Args:
        container: a client of the container.
        prefix: of every name; empty, or ends with a slash.
    """

    def __init__(self, container: Any, prefix: str) -> None:
        self._container = container
        self._prefix = prefix

    def get(self, key: str) -> StoredObject | None:
        """Returns a blob; both its time and the time now are Azure's."""
        dates: list[Any] = []
        with _storage(f"cannot read {self._name(key)}"):
            try:
                answer = self._container.get_blob_client(self._prefix + key).download_blob(
                    raw_response_hook=lambda response: dates.append(response.http_response.headers["Date"])
                )
                body = answer.readall()
            except exceptions.ResourceNotFoundError as error:
                if _code(error) == "BlobNotFound":
                    return None
                raise
        age = parsedate_to_datetime(dates[0]) - answer.properties.last_modified
        return StoredObject(body, str(answer.properties.etag), age_s=age.total_seconds())

    def put(self, key: str, body: bytes, *, version: str | None) -> str:
        """Writes a blob on condition."""
        condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if version is not None:
            condition = {"match_condition": MatchConditions.IfNotModified, "etag": version}
        with _storage(f"cannot write {self._name(key)}"):
            try:
                answer = self._container.get_blob_client(self._prefix + key).upload_blob(
                    body, overwrite=version is not None, **condition
                )
            except (exceptions.ResourceModifiedError, exceptions.ResourceExistsError) as error:
                raise Conflict(f"{self._name(key)} is not the one that was read", why=str(error.reason)) from error
        return str(answer["etag"])

    def list(self, prefix: str) -> list[str]:
        """Returns names without the prefix of the store."""
        with _storage(f"cannot list {self._name(prefix)}"):
            names = self._container.list_blob_names(name_starts_with=self._prefix + prefix)
            return [name.removeprefix(self._prefix) for name in names]

    def _name(self, key: str) -> str:
        return f"{self._container.url}/{self._prefix}{key}"


def _code(error: exceptions.HttpResponseError) -> str:
    code = getattr(error, "error_code", None) or ""  # an enum for the codes that the SDK knows
    return str(getattr(code, "value", code))


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """As `translated`; storage has its codes elsewhere, and credentials and roles of its own."""
    with translated(what):
        try:
            yield
        except exceptions.HttpResponseError as error:
            if error.response is None:
                raise  # not of storage: no token could be had
            code = _code(error)
            kind = kind_of(code, error.status_code or 0)
            raise kind(
                what, why=f"{code}: {error.reason}", hint=STORAGE_HINTS.get(kind, HINTS.get(kind, ""))
            ) from error


def open_container(words: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> ObjectStore:
    """Returns the storage of `azblob://account/container/prefix`, with the caller's own credentials.

    Raises:
        InvalidRequest: the connection string is of another account.
    """
    account, container, *prefix = words
    connection = environ.get(CONNECTION)
    service: Any
    with translated("Azure Blob storage cannot be used"):
        if connection:
            try:
                service = BlobServiceClient.from_connection_string(connection, **PATIENCE)
            except ValueError as error:
                raise InvalidRequest(f"{CONNECTION} is not a connection string", why=str(error)) from error
            if service.account_name != account.partition(".")[0]:
                raise InvalidRequest(
                    f"{CONNECTION} is of the account {service.account_name}, the state is in {account}",
                    hint="unset it, or correct the address",
                )
        else:
            host = account if "." in account else f"{account}.{SUFFIX}"
            credential = DefaultAzureCredential(process_timeout=CLI_S)
            service = BlobServiceClient(f"https://{host}", credential=credential, **PATIENCE)
    return BlobObjects(service.get_container_client(container), "".join(f"{word}/" for word in prefix))

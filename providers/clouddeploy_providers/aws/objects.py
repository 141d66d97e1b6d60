"""An S3 bucket as shared storage, with conditional writes.

Needs these permissions and no others, on the bucket and the keys below the prefix:
    s3:ListBucket, s3:GetObject, s3:PutObject

Source:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from clouddeploy_providers.aws.errors import HINTS, kind_of, translated
from clouddeploy_providers.errors import AccessDenied, Conflict, NotFound, Transient
from clouddeploy_providers.object_store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clouddeploy_providers.object_store import ObjectStore

TIMEOUTS_S: Final = {"connect_timeout": 5, "read_timeout": 10}
"""Shorter than a third of a lease: a lost connection must not cost the lock."""
TRIES = 2
"""More is up to the caller, who knows how long the lock is still held."""
ANY_REGION = "us-east-1"
MISSING = {"NoSuchKey", "404"}
CHANGED = {"PreconditionFailed", "412", *MISSING}
"""S3 answers 404 to If-Match where there is no object."""
STORAGE_HINTS = {
    AccessDenied: "ask for the permissions listed in docs/state.md",
    NotFound: "make the bucket, docs/state.md says how, or correct its name",
}
AT_ONCE = {"ConditionalRequestConflict", "409", "OperationAborted"}
"""Somebody else is writing right now; who has won shows a moment later."""


class S3Objects:
    """Keys of one bucket below a prefix; see `ObjectStore`.

    Args:
        bucket: its name.
        prefix: of every key; empty, or ends with a slash.
        client: a boto3 client for S3.
    """

    def __init__(self, bucket: str, prefix: str, client: Any) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._client = client

    def get(self, key: str) -> StoredObject | None:
        """Returns an object; both its time and the time now are S3's."""
        with _storage(f"cannot read {self._name(key)}"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                body = answer["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return StoredObject(body, answer["ETag"], age_s=(now - answer["LastModified"]).total_seconds())

    def put(self, key: str, body: bytes, *, version: str | None) -> str:
        """Writes an object on condition."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with _storage(f"cannot write {self._name(key)}"):
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body, **condition)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in CHANGED:
                    raise Conflict(f"{self._name(key)} is not the one that was read", why=code) from error
                if code in AT_ONCE:
                    raise Transient(f"{self._name(key)} is being written by somebody else", why=code) from error
                raise
        return str(answer["ETag"])

    def list(self, prefix: str) -> list[str]:
        """Returns keys without the prefix of the store."""
        with _storage(f"cannot list {self._name(prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [one["Key"].removeprefix(self._prefix) for page in pages for one in page.get("Contents", ())]

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """As `translated`; what S3 refuses has causes of its own."""
    with translated(what):
        try:
            yield
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            kind = NotFound if code == "NoSuchBucket" else kind_of(code, status)
            hint = STORAGE_HINTS.get(kind, HINTS.get(kind, ""))
            raise kind(what, why=f"{code}: {message}", hint=hint) from error


def open_bucket(words: Sequence[str]) -> ObjectStore:
    """Returns the storage of `s3://bucket/prefix`, with the caller's own credentials, region and `AWS_ENDPOINT_URL`."""
    bucket, *prefix = words
    with translated("S3 cannot be used"):
        session = boto3.Session()
        config = Config(retries={"mode": "standard", "total_max_attempts": TRIES}, **TIMEOUTS_S)
        # Without a region any will do: botocore follows S3 to the one of the bucket.
        client = session.client("s3", region_name=session.region_name or ANY_REGION, config=config)
    return S3Objects(bucket, "".join(f"{word}/" for word in prefix), client)

from datetime import UTC, datetime
from io import BytesIO

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from clouddeploy_providers.aws.objects import S3Objects
from clouddeploy_providers.azure.objects import open_container
from clouddeploy_providers.errors import AccessDenied, Conflict, InvalidRequest, NotFound, ProviderError, Transient
from clouddeploy_providers.object_store import MemoryObjects, open_objects


@pytest.fixture(scope="module")
def client():
    return boto3.client("s3", region_name="us-east-1", aws_access_key_id="AKIATEST", aws_secret_access_key="made-up")


@pytest.fixture
def stub(client):
    with Stubber(client) as one:
        yield one


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("PreconditionFailed", 412, Conflict),
        ("NoSuchKey", 404, Conflict),
        ("ConditionalRequestConflict", 409, Transient),
        ("SlowDown", 503, Transient),
        ("AccessDenied", 403, AccessDenied),
        ("NoSuchBucket", 404, NotFound),
    ],
)
def test_a_refused_write_says_whether_the_race_is_lost_or_undecided(client, stub, code, status, kind):
    stub.add_client_error("put_object", code, http_status_code=status)
    with pytest.raises(ProviderError) as caught:
        S3Objects("b", "p/", client).put("state.json", b"{}", version='"e"')
    assert type(caught.value) is kind


def test_a_first_write_is_on_condition_that_there_is_nothing(client, stub):
    stub.add_response("put_object", {"ETag": '"e"'}, {"Bucket": "b", "Key": "p/k", "Body": b"1", "IfNoneMatch": "*"})
    stub.add_response("put_object", {"ETag": '"f"'}, {"Bucket": "b", "Key": "p/k", "Body": b"2", "IfMatch": '"e"'})
    objects = S3Objects("b", "p/", client)
    assert objects.put("k", b"1", version=None) == '"e"'
    assert objects.put("k", b"2", version='"e"') == '"f"'


def test_an_age_is_the_difference_of_two_times_of_the_store(client, stub):
    stub.add_response(
        "get_object",
        {
            "Body": StreamingBody(BytesIO(b"x"), 1),
            "ETag": '"e"',
            "LastModified": datetime(2026, 11, 25, 18, 0, 0, tzinfo=UTC),
            "ResponseMetadata": {"HTTPHeaders": {"date": "Wed, 25 Nov 2026 18:01:30 GMT"}},
        },
    )
    found = S3Objects("b", "", client).get("k")
    assert (found.body, found.version, found.age_s) == (b"x", '"e"', 90.0)


def test_a_missing_object_is_nothing_and_a_missing_bucket_an_error(client, stub):
    objects = S3Objects("b", "", client)
    stub.add_client_error("get_object", "NoSuchKey", http_status_code=404)
    assert objects.get("k") is None
    stub.add_client_error("get_object", "NoSuchBucket", http_status_code=404)
    with pytest.raises(ProviderError, match="NoSuchBucket"):
        objects.get("k")


def test_without_a_connection_string_the_callers_own_identity_is_used():
    public = open_container(["acct", "state", "team"], environ={})
    sovereign = open_container(["acct.blob.core.usgovcloudapi.net", "state"], environ={})
    assert public._container.url == "https://acct.blob.core.windows.net/state"
    assert sovereign._container.url == "https://acct.blob.core.usgovcloudapi.net/state"


def test_a_connection_string_that_is_none_is_refused():
    with pytest.raises(InvalidRequest, match="is not a connection string"):
        open_container(["acct", "state"], environ={"AZURE_STORAGE_CONNECTION_STRING": "nonsense"})


def test_an_sdk_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "clouddeploy_providers.aws.objects", None)
    with pytest.raises(InvalidRequest) as caught:
        open_objects("s3://b/p")
    assert "clouddeploy[aws]" in caught.value.hint


def test_objects_in_memory_keep_the_same_rules():
    objects = MemoryObjects()
    first = objects.put("a/1", b"x", version=None)
    for version in (None, "another"):
        with pytest.raises(Conflict):
            objects.put("a/1", b"y", version=version)
    assert objects.put("a/1", b"x", version=first) != first
    assert objects.get("a/2") is None
    assert objects.list("a/") == ["a/1"]

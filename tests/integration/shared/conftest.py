"""Shared storage that is real here: S3 by moto over HTTP, Azure Blob storage by azurite, and a folder beside them."""

import base64
import os
import re
import secrets
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import boto3
import pytest
from azure.storage.blob import ContainerClient
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from clouddeploy.audit import AuditTrail
from clouddeploy.journal import Journal
from clouddeploy.state import State
from clouddeploy.stores import open_store

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def s3():
    """S3 decides about a condition and writes in one step; moto does one after the other, so requests come singly."""

    class Quiet(WSGIRequestHandler):
        def log(self, *_args):
            pass

    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def guarded(environ, start_response):
        with one_at_a_time:
            return list(application(environ, start_response))

    server = make_server("127.0.0.1", 0, guarded, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="AKIATEST",
        aws_secret_access_key="made-up",
    )
    client.create_bucket(Bucket="federations")
    client.put_bucket_versioning(Bucket="federations", VersioningConfiguration={"Status": "Enabled"})
    client.close()
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3_environment(s3):
    return {
        "AWS_ENDPOINT_URL_S3": s3,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture(scope="session")
def blob(tmp_path_factory):
    """Returns the connection string of an azurite; with CI=true a machine without Node.js fails, elsewhere it skips."""
    if not (shutil.which("node") and shutil.which("npm")):
        message = "azurite needs Node.js and npm (apt-get install nodejs npm)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    process = subprocess.Popen(
        [str(ROOT / "scripts/azurite"), "--silent"],
        env={**os.environ, "AZURITE_ACCOUNTS": f"federations:{key}"},
        cwd=tmp_path_factory.mktemp("azurite"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    try:
        for line in process.stdout:
            said += line
            if found := re.search(r"listens on (http://\S+)", line):
                break
        else:
            pytest.fail(f"azurite did not start:\n{said}")
        url = f"{found[1]}/federations"
        connection = f"AccountName=federations;AccountKey={key};BlobEndpoint={url};"
        with ContainerClient.from_connection_string(connection, "state") as container:
            container.create_container()
        yield connection
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Case:
    """One kind of store; every method opens it as another process would.

    Attributes:
        url: its address; empty: a folder.
    """

    def __init__(self, url, directory):
        self.url = url
        self.directory = directory

    def store(self):
        return open_store(self.url or None, self.directory)

    def state(self, store):
        return State.load(self.directory, store=store)

    def journal(self, store):
        return Journal(self.directory / "journal.jsonl", store=store)

    def audit(self, store):
        return AuditTrail(self.directory / "audit.jsonl", command="apply", store=store)


@pytest.fixture(params=["local", "s3", "blob"])
def case(request, tmp_path, monkeypatch):
    prefix = uuid.uuid4().hex
    if request.param == "local":
        return Case("", tmp_path)
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3_environment").items():
            monkeypatch.setenv(name, value)
        return Case(f"s3://federations/teams/{prefix}", tmp_path)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", request.getfixturevalue("blob"))
    return Case(f"azblob://federations/state/{prefix}", tmp_path)

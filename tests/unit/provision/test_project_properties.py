"""Whatever a project file holds: it is a project, or it is told where it is wrong. Never anything else.

Valid files are damaged in their bytes, their lines and their nodes. What is still taken can be drafted, and a sample of
it is provisioned.
"""

from __future__ import annotations

import datetime as dt
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from clouddeploy_provision import project
from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.errors import BuilderFailed, ProjectFileError
from clouddeploy_provision.provisioner import Options, preview, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.errors import ClouddeployError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.often import often

DATA = Path(__file__).parent / "data" / "reference"
# Without those that load code or make encryption keys at every draft: slow, and tested elsewhere.
NAMES = [
    "default",
    "docker",
    "hierarchy",
    "included",
    "listening",
    "overseer",
    "policies",
    "proxy",
    "relays",
    "studies",
]
CASES = often(40, nightly=120)
FAST = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

WORDS = [
    *("name", "type", "org", "role", "api_version", "participants", "builders", "packager", "studies", "path", "args"),
    *("include", "parent", "capacity", "host", "port", "listening_host", "connect_to", "host_names", "default_host"),
    *(
        "site_orgs",
        "sites",
        "admins",
        "server",
        "client",
        "relay",
        "admin",
        "overseer",
        "lead",
        "scheme",
        "tls",
        "clear",
    ),
    *(
        "site-1",
        "relay-1",
        "relay-2",
        "server1",
        "region-1",
        "ward-1",
        "mtls",
        "grpc",
        "(client)",
        "(text)",
        "<<",
        "yes",
    ),
    *("default", "proxy_ca.pem", ".", "..", "/", "parts/site-1.yml", "relays.yml", "template_file", "a@b.com", "org_a"),
    *("10.0.0.1", "::1", "fe80::1%eth0", "null", "nvflare.lighter.impl.cert.CertBuilder"),
]
SCALARS = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([None, True, False, 0, 1, -1, 3, 4, 65535, 65536, 10**30, 0.5, float("nan"), float("inf"), ""]),
    st.sampled_from([dt.date(2026, 1, 2), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), b"\xff\x00"]),
    st.text(max_size=12),
    st.integers(),
    st.floats(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
SNIPPETS = [
    b"\xff",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\t",
    b": ",
    b"- ",
    b"{",
    b"]",
    b"'",
    b'"',
    b"&a ",
    b"*a",
    b"<<: *a\n",
    b"!!int x",
    b"!!bool maybe",
    b"!!python/object:os.system x",
    b"2026-13-99",
    b"9" * 5000,
    b"[" * 2000,
    b"{a: " * 60,
    b"? [a]\n: 1\n",
    b"---\n",
    b"%YAML 9.9\n",
    b"\xe2\x80\xa8",
    b"\r",
    b"include: project.yml\n",
    b"include: parts/site-1.yml\n",
    b"x: &x [*x]\n",
    b"\\ud800",
    b"#",
]


@functools.cache
def base(name: str) -> bytes:
    return (DATA / f"{name}.yml").read_bytes()


@pytest.fixture(scope="module")
def folder():
    """A folder with what the files refer to, where one file after the other is tried."""
    with tempfile.TemporaryDirectory() as root:
        files = Path(root) / "files"
        shutil.copytree(DATA, files)
        now = dt.datetime.now(dt.UTC)
        (files / "proxy_ca.pem").write_bytes(Authority.create("proxy", now=now).pem)
        yield files


def refused(error: ProjectFileError) -> None:
    assert error.problems
    for problem in error.problems:
        lines = Path(problem.file).read_bytes().count(b"\n") + 1
        assert 1 <= problem.line <= lines, problem
        assert problem.rule
        assert "\n" not in problem.rule


def hold(folder: Path, content: bytes, *, build: bool = False) -> None:
    """Assert that a file is a project, which can be drafted, or is told where it is wrong."""
    file = folder / "project.yml"
    file.write_bytes(content)
    custom = Custom(folder)
    try:
        found = project.load(file, custom=custom)
    except ProjectFileError as exc:
        refused(exc)
        return
    with tempfile.TemporaryDirectory() as workspace:
        try:
            changes = preview(found, Path(workspace), options=Options(custom=custom))
        except BuilderFailed:  # for example, the requirements of an image are not there
            return
        assert [one.name for one in changes] == [one.name for one in found.participants]
        if build:
            make(found, Path(workspace), custom)


def make(found: project.Project, workspace: Path, custom: Custom) -> None:
    try:
        report = provision(found, workspace, passphrase=b"x", options=Options(custom=custom))
    except ClouddeployError:  # two names that no file system can tell apart, and the like
        assert not list(workspace.glob("*/prod_*"))
        return
    for name, root in report.kits.items():
        assert kit.verify(root).participant == name


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_changed(folder, name):
    original = base(name)

    @FAST
    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(SNIPPETS)), min_size=1, max_size=4))
    def holds(edits):
        content = original
        for place, removed, put in edits:
            at = int(place * len(content))
            content = content[:at] + put + content[at + removed :]
        hold(folder, content)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_lines_that_are_moved(folder, name):
    original = base(name).splitlines(keepends=True)
    edit = st.tuples(st.sampled_from(["drop", "double", "move", "indent"]), st.integers(0, 200), st.integers(0, 200))

    @FAST
    @given(st.lists(edit, min_size=1, max_size=3))
    def holds(edits):
        lines = list(original)
        for what, one, other in edits:
            index, target = one % len(lines), other % len(lines)
            if what == "drop" and len(lines) > 1:
                del lines[index]
            elif what == "double":
                lines.insert(target, lines[index])
            elif what == "move":
                lines.insert(target, lines.pop(index))
            else:
                lines[index] = b" " * (other % 5) + lines[index].lstrip()
        hold(folder, b"".join(lines))

    holds()


def places(data: Any, key: tuple = ()) -> list[tuple]:
    """Return the path of every value."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [key, *(path for name, value in inner for path in places(value, (*key, name)))]


def inside(data: Any, key: tuple) -> Any:
    for part in key:
        data = data[part]
    return data


def edited(data: Any, what: str, key: tuple, other: tuple, value: Any) -> Any:
    """Change one value of plain data."""
    if not key:
        return value if what == "replace" else data
    holder, name = inside(data, key[:-1]), key[-1]
    if what == "replace":
        holder[name] = value
    elif what == "drop":
        del holder[name]
    elif what == "share":  # the same object twice is an anchor and an alias, or a circle
        holder[name] = inside(data, other)
    elif what == "add" and isinstance(holder, dict):
        holder[str(value)] = value
    elif what == "add":
        holder.insert(name, value)
    elif isinstance(holder, dict):
        holder[str(value)] = holder.pop(name)
    return data


@pytest.mark.parametrize("name", NAMES)
def test_nodes_that_are_changed(folder, name):
    original = base(name)
    edit = st.tuples(
        st.sampled_from(["replace", "drop", "share", "add", "rename"]),
        st.integers(0, 500),
        st.integers(0, 500),
        VALUES,
    )
    count = 0

    @FAST
    @given(st.lists(edit, min_size=1, max_size=3))
    def holds(edits):
        nonlocal count
        data = yaml.safe_load(original)
        for what, one, other, value in edits:
            try:
                known = places(data)
                data = edited(data, what, known[one % len(known)], known[other % len(known)], value)
            except RecursionError:  # it is a circle already
                break
        count += 1
        hold(folder, yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode(), build=count % 20 == 0)

    holds()


@FAST
@given(VALUES)
def test_any_yaml(folder, value):
    hold(folder, yaml.safe_dump(value, allow_unicode=True).encode())


@FAST
@given(st.binary(max_size=200))
def test_any_bytes(folder, content):
    hold(folder, content)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_alone(folder, snippet):
    for content in (snippet, b"a: " + snippet, b"participants: [" + snippet + b"]\n", base("default") + snippet):
        hold(folder, content)

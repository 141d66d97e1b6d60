"""A preview says what the run then does, needs no passphrase, and leaves every file and time as it is."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import certificate_authority
from clouddeploy_provision import project as project_file
from clouddeploy_provision.builders.catalogue import Custom, Step
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.errors import ProvisionError
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, Options, preview, provision
from clouddeploy_runtime.kit import Kind
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

PASSPHRASE = b"correct horse"
START = datetime.now(UTC).replace(microsecond=0)
DUMMY = project_file.load(Path(__file__).parent / "data" / "dummy_project.yml")


@dataclasses.dataclass
class Case:
    """A project on disk, and what is asked of it."""

    folder: Path
    project: Project = DUMMY
    renew: frozenset[str] = frozenset()
    new_key: bool = False
    now: datetime = START

    @property
    def home(self) -> Path:
        return self.folder / self.project.name

    @property
    def result(self) -> Path:
        return max(self.home.glob("prod_*"))

    @property
    def options(self) -> Options:
        return Options(renewal=Renewal(self.renew, self.new_key), custom=Custom(self.folder))

    def change(self, name: str, **values: object) -> None:
        found = (dataclasses.replace(one, **values) if one.name == name else one for one in self.project.participants)
        self.project = dataclasses.replace(self.project, participants=tuple(found))

    def add(self, *more: Participant) -> None:
        known = {one.name for one in self.project.participants}
        fresh = (one for one in more if one.name not in known)
        self.project = dataclasses.replace(self.project, participants=(*self.project.participants, *fresh))

    def run(self) -> object:
        return outcome(
            lambda: (
                provision(self.project, self.folder, passphrase=PASSPHRASE, options=self.options, now=self.now).changes
            )
        )

    def foresee(self) -> object:
        return outcome(lambda: preview(self.project, self.folder, options=self.options, now=self.now))


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returns, or what it says when it refuses."""
    try:
        return call()
    except ProvisionError as exc:
        return type(exc).__name__, exc.what


def remove(case: Case) -> None:
    keep = tuple(one for one in case.project.participants if one.name != "site-2")
    case.project = dataclasses.replace(case.project, participants=keep)


def revoke(case: Case) -> None:
    certificate_authority.revoke(case.home / "state", ["site-1"], passphrase=PASSPHRASE)


def readmit(case: Case) -> None:
    revoke(case)
    case.renew, case.new_key = frozenset({"site-1"}), True


def roll(case: Case) -> None:
    certificate_authority.rollover(case.home / "state", Phase.START, passphrase=PASSPHRASE)


def tamper(case: Case) -> None:
    script = case.result / "site-1/startup/start.sh"
    if script.exists():
        with script.open("a") as file:
            file.write("\n")


def lose_a_kit(case: Case) -> None:
    shutil.rmtree(case.result / "site-1", ignore_errors=True)


def lose_the_index(case: Case) -> None:
    (case.home / "state/kits.json").unlink(missing_ok=True)


def lose_everything_but_the_state(case: Case) -> None:
    for path in case.home.glob("prod_*"):
        shutil.rmtree(path)
    (case.home / "prod_04").mkdir()


def edit_by_hand(case: Case) -> None:
    place = case.result / "server1/local"
    if place.is_dir():
        (place / "authorization.json").write_text("{}")
        (place / "log_config.json.default").write_text("{}")


def wait(days: int) -> Callable[[Case], None]:
    def edit(case: Case) -> None:
        case.now = START + timedelta(days=days)

    return edit


def site(name: str) -> Participant:
    return Participant(Kind.CLIENT, name, "nvidia", host="localhost", port=8002)


EDITS: dict[str, Callable[[Case], None]] = {
    "a new client": lambda case: case.add(site("site-3")),
    "two new ones": lambda case: case.add(site("a"), Participant(Kind.ADMIN, "m@x.org", "nvidia", role="member")),
    "one less": remove,
    "another host name": lambda case: case.change("server1", hosts=("localhost", "127.0.0.1", "fl.example.com")),
    "a host name less": lambda case: case.change("server1", hosts=("localhost",)),
    "another port": lambda case: case.change("server1", port=9002),
    "more GPUs": lambda case: case.change("site-2", gpus=4),
    "another organisation": lambda case: case.change("site-1", org="other"),
    "another role": lambda case: case.change("lead@nvidia.com", role="member"),
    "signed jobs": lambda case: setattr(case, "project", dataclasses.replace(case.project, require_signed_jobs=True)),
    "renewal": lambda case: setattr(case, "renew", frozenset({"site-2", "server1"})),
    "renewal of a stranger": lambda case: setattr(case, "renew", frozenset({"x"})),
    "revocation": revoke,
    "readmission": readmit,
    "root exchange": roll,
    "a tampered kit": tamper,
    "a kit less": lose_a_kit,
    "no index": lose_the_index,
    "no kit at all": lose_everything_but_the_state,
    "edits by hand": edit_by_hand,
    "nine months": wait(270),
    "thirteen months": wait(400),
    "eleven years": wait(11 * 365),
}


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (
            status.st_mode,
            status.st_ino,
            status.st_nlink,
            status.st_mtime_ns,
            status.st_ctime_ns,
            content,
        )
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A project with one result."""
    folder = tmp_path_factory.mktemp("base")
    provision(DUMMY, folder, passphrase=PASSPHRASE, now=START)
    return folder


def check(case: Case) -> None:
    before = listing(case.folder)
    foreseen = case.foresee()
    assert before == listing(case.folder)
    assert foreseen == case.run()
    if not isinstance(foreseen[0], str):
        case.renew = frozenset()
        assert {one.outcome for one in case.foresee()} <= {"kept"}
        assert case.foresee() == case.run()


@pytest.mark.parametrize("edit", EDITS)
def test_one_edit(base, tmp_path, edit):
    case = Case(shutil.copytree(base, tmp_path / "ws"))
    EDITS[edit](case)
    check(case)


@settings(max_examples=12, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(EDITS)), min_size=2, max_size=5, unique=True))
def test_several_edits(base, names):
    with tempfile.TemporaryDirectory() as folder:
        case = Case(shutil.copytree(base, Path(folder, "ws")))
        for name in names:
            try:
                EDITS[name](case)
            except ProvisionError:  # not after the others
                continue
        check(case)


def test_a_first_run(tmp_path):
    case = Case(tmp_path / "none")
    assert [one.outcome for one in case.foresee()] == ["created"] * 5
    assert not case.folder.exists()
    assert case.foresee() == case.run()


def test_a_deployments_address_stays(tmp_path):
    at = Endpoint("20.1.2.3", 9000)
    provision(DUMMY, tmp_path, passphrase=PASSPHRASE, endpoint=at, extra_server_hosts=["20.1.2.3"])
    case = Case(tmp_path)
    assert {one.outcome for one in case.foresee()} == {"kept"}
    assert case.foresee() == case.run()


def test_what_a_builder_of_ones_own_made_is_not_taken_for_a_change(tmp_path):
    (tmp_path / "notice_builder.py").write_text(
        "class Notice:\n"
        "    def build(self, project, ctx):\n"
        "        for one in project.participants:\n"
        "            ctx.add_file(one, 'startup/notice.txt', b'x')\n"
    )
    mine = Step("notice_builder.Notice")
    case = Case(tmp_path, dataclasses.replace(DUMMY, builders=(*DUMMY.builders, mine)))
    assert [one.outcome for one in case.run()] == ["created"] * 5
    assert {one.outcome for one in case.foresee()} == {"kept"}
    assert case.foresee() == case.run()
    case.change("server1", hosts=("localhost", "127.0.0.1", "fl.example.com"))
    assert case.foresee() == case.run()

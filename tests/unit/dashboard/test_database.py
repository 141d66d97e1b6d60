"""The tables, and what happens when two ask for the same at once."""

import pytest
from clouddeploy_provision.errors import PassphraseError
from sqlalchemy import create_engine, text

from clouddeploy.dashboard import database, model
from clouddeploy.dashboard.errors import Conflict, DashboardError, DashboardState
from clouddeploy.dashboard.opening import open_desk
from clouddeploy.secrets import Secret
from tests.unit.dashboard.visitors import World


def test_the_steps_lead_to_the_model(tmp_path):
    opened = database.open_in(tmp_path)
    assert opened.schema_differences() == []
    with opened.begin() as db:
        assert db.scalar(text("SELECT version_num FROM alembic_version")) == database.PRESENT
    opened.close()
    again = database.open_in(tmp_path)
    assert again.schema_differences() == []
    again.close()


def test_what_the_first_version_had_is_still_there(tmp_path):
    opened = database.Database(f"sqlite:///{tmp_path}/db.sqlite")
    opened.migrate("first")
    with opened.begin() as db:
        db.execute(text("INSERT INTO organization (name) VALUES ('hub')"))
        columns = [column.name for column in model.Project.__table__.columns if column.name != "needs_second_factor"]
        values = ", ".join("'1'" for _ in columns)
        db.execute(text(f"INSERT INTO project ({', '.join(columns)}) VALUES ({values})"))  # noqa: S608 - our own names
    opened.migrate()
    assert opened.schema_differences() == []
    with opened.begin() as db:
        project = db.get(model.Project, 1)
        assert (project.is_frozen, project.needs_second_factor) == (True, False)
    opened.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    database.open_in(tmp_path).close()
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of next year'"))
    engine.dispose()
    with pytest.raises(DashboardError, match="cannot be used"):
        database.open_in(tmp_path)


def test_a_name_that_is_taken_is_a_conflict(tmp_path):
    opened = database.open_in(tmp_path)
    with opened.begin() as db:
        db.add(model.Organization(name="one"))
    with pytest.raises(Conflict), opened.begin() as db:
        db.add(model.Organization(name="one"))
    opened.close()


def test_times_come_back_in_utc(world):
    with world.desk.visit() as visit:
        assert visit.db.get(model.User, 1).created_at.tzinfo is not None


def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(DashboardState, match="lets others in"):
        open_desk(tmp_path / "open", passphrase=Secret("x"))


def test_a_wrong_passphrase_is_refused_at_the_start(tmp_path):
    with World(tmp_path / "dashboard") as world:
        world.configure(freeze=True)
    with pytest.raises(PassphraseError):
        open_desk(tmp_path / "dashboard", passphrase=Secret("another"))


def test_a_long_list_stays_quick(world):
    """100 organisations with 10 sites each: one page of a search, in less than the 200 ms of a first page."""
    now = world.clock()
    with world.desk.visit() as visit:
        user = visit.db.get_one(model.User, 1)
        for number in range(100):
            org = model.Organization(name=f"org_{number}")
            visit.db.add_all(
                model.Site(name=f"o{number}-s{one}", organization=org, creator=user, approval_state=100, created_at=now)
                for one in range(10)
            )
    root = world.program()
    answer = root.get("/clients", q="org_42", per_page=5)
    assert answer.json()["paging"] == {"page": 1, "per_page": 5, "total": 10}
    assert answer.elapsed.total_seconds() < 0.2
    browser = world.browser()
    assert browser.get("/sites").elapsed.total_seconds() < 0.2
    assert len(root.get("/clients", per_page=1000).json()["client_list"]) == 1000

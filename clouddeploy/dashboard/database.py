"""The database: SQLite in the dashboard's folder, or another by its URL; brought to the present form when opened."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, inspect, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from clouddeploy.dashboard import model
from clouddeploy.dashboard.errors import Conflict, DashboardError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

FILE = "db.sqlite"
PRESENT = "third"
"""The last of `migrations.versions`: the tables' present form."""


class Database:
    """An open database.

    Args:
        url: SQLAlchemy's, for example `postgresql+psycopg://user@host/name`.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    def migrate(self, to: str = "head") -> None:
        """Brings the tables to the present form.

        Args:
            to: an earlier form, for tests.

        Raises:
            DashboardError: the database cannot be reached, or is of a newer version.
        """
        try:
            with self._engine.begin() as connection:
                if to != "head" or _form(connection) != PRESENT:
                    _upgrade(connection, to)
        except SQLAlchemyError as error:
            raise _unusable(error) from error

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Yields a session whose changes are all kept when the context ends well, else none.

        Raises:
            Conflict: a name is taken; two may have asked for it at once.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except IntegrityError as error:
            raise Conflict("it cannot be saved", why="a name is taken already", hint="choose another one") from error

    def close(self) -> None:
        """Lets go of every connection."""
        self._engine.dispose()

    def schema_differences(self) -> list[Any]:
        """Returns what differs between the tables and the model; nothing, after `migrate`."""
        from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - for tests
        from alembic.migration import MigrationContext  # noqa: PLC0415

        with self._engine.connect() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), model.Base.metadata))


def open_in(folder: Path, url: str = "") -> Database:
    """Opens the database of a dashboard's folder, or the one of a URL, and brings it to the present form.

    Raises:
        DashboardError: it cannot be used.
    """
    if not url:
        path = folder / FILE
        # Born so: SQLite gives its journal the mode of its file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        url = f"sqlite:///{path}"
    database = Database(url)
    database.migrate()
    return database


def project_of(session: Session) -> model.Project:
    """Returns the one project; made empty when there is none yet."""
    found = session.get(model.Project, model.ONLY)
    if found is None:
        found = model.Project(id=model.ONLY, server_hosts=[])
        session.add(found)
        session.flush()
    return found


def organization(session: Session, name: str) -> model.Organization:
    """Returns the organisation of a name; made when it is new."""
    found = session.scalar(select(model.Organization).where(model.Organization.name == name))
    if found is None:
        found = model.Organization(name=name)
        session.add(found)
        session.flush()
    return found


def _form(connection: Connection) -> str:
    """Return the form of the tables; empty: there are none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _upgrade(connection: Connection, to: str) -> None:
    from alembic import command  # noqa: PLC0415 - 0.2 s, and only where tables are older
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "clouddeploy.dashboard:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> DashboardError:
    return DashboardError(
        "the database cannot be used",
        why=str(error).splitlines()[0],
        hint="is its URL right, does it run, and is this dashboard not older than its tables?",
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()

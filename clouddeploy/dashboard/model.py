"""What the database holds. Secrets are in it as hashes only; certificates and their state are the authority's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

ONLY = 1
"""The id of the one project."""


class Moment(TypeDecorator[datetime]):
    """A time in UTC; SQLite keeps no zone, so it is put back when one is read."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """Returns what is stored."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """Returns what is read."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The root of all tables."""


class Organization(Base):
    """Who owns sites and has people."""

    __tablename__ = "organization"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)


class Project(Base):
    """The one project, and its server."""

    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)
    short_name: Mapped[str] = mapped_column(String(16), default="")
    title: Mapped[str] = mapped_column(String(200), default="")
    description: Mapped[str] = mapped_column(Text, default="")
    app_location: Mapped[str] = mapped_column(String(500), default="")
    starting_date: Mapped[str] = mapped_column(String(10), default="")
    """ISO 8601; empty: none."""
    end_date: Mapped[str] = mapped_column(String(10), default="")
    is_public: Mapped[bool] = mapped_column(default=False)
    is_frozen: Mapped[bool] = mapped_column(default=False)
    server: Mapped[str] = mapped_column(String(64), default="")
    server_port: Mapped[int] = mapped_column(default=8002)
    server_hosts: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Names and addresses of the server besides its own name."""
    server_downloads: Mapped[int] = mapped_column(default=0)
    needs_second_factor: Mapped[bool] = mapped_column(default=False)
    """Whether a project admin must have one."""


class User(Base):
    """Somebody with an account."""

    __tablename__ = "user_account"  # `user` is a word of SQL
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(64), unique=True)
    """In lower case."""
    name: Mapped[str] = mapped_column(String(200), default="")
    description: Mapped[str] = mapped_column(Text, default="")
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(20))
    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"), index=True)
    approval_state: Mapped[int] = mapped_column(default=0)
    download_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(Moment)
    organization: Mapped[Organization] = relationship(lazy="joined")


class Site(Base):
    """A client of the federation."""

    __tablename__ = "client"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"), index=True)
    creator_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    num_of_gpus: Mapped[int] = mapped_column(default=0)
    mem_per_gpu_in_gib: Mapped[float] = mapped_column(default=0.0)
    approval_state: Mapped[int] = mapped_column(default=0)
    download_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(Moment)
    organization: Mapped[Organization] = relationship(lazy="joined")
    creator: Mapped[User] = relationship(lazy="joined")


class Invitation(Base):
    """A link that lets one person sign up; whoever has it may use it once."""

    __tablename__ = "invitation"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(64), default="")
    """Only for this address; empty: for anybody who has the link."""
    role: Mapped[str] = mapped_column(String(20))
    organization: Mapped[str] = mapped_column(String(64))
    inviter_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    used_at: Mapped[datetime | None] = mapped_column(Moment, default=None)


class Login(Base):
    """Somebody's session in a browser, or a token of theirs."""

    __tablename__ = "login"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of what the browser or the program shows."""
    kind: Mapped[str] = mapped_column(String(10))
    """browser, api (of POST /login) or token (for automation)."""
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100), default="")
    scopes: Mapped[str] = mapped_column(String(50), default="")
    """Joined by spaces."""
    form_token: Mapped[str] = mapped_column(String(64), default="")
    """What every form of this session must send; a page of somebody else's does not know it."""
    created_at: Mapped[datetime] = mapped_column(Moment)
    seen_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment)
    proved_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    """When the password, and the code where there is one, were last typed; None: at the login."""


class SecondFactor(Base):
    """What somebody's authenticator shares with the dashboard (RFC 6238)."""

    __tablename__ = "second_factor"
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"), primary_key=True)
    secret: Mapped[str] = mapped_column(String(200))
    """Encrypted with a key that is not in the database."""
    last_step: Mapped[int] = mapped_column(default=0)
    """Of the last code that was taken; neither it nor an earlier one is taken again."""
    confirmed_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    """None: it was offered, and no code shown yet."""


class RecoveryCode(Base):
    """Stands for a code once, for who has lost the authenticator."""

    __tablename__ = "recovery_code"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64))


class Attempt(Base):
    """Failures of an account, an address, a browser, or an account at an address."""

    __tablename__ = "attempt"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of what is counted: who typed what is nobody's business."""
    failures: Mapped[int] = mapped_column(default=0)
    last: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970, as all times here."""
    locked_until: Mapped[float] = mapped_column(default=0.0)


class KnownPlace(Base):
    """An address from which somebody has logged in."""

    __tablename__ = "known_place"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of account and address together."""
    last: Mapped[float] = mapped_column(default=0.0)


class Download(Base):
    """One time that somebody was given a kit, or the answer to a site's request."""

    __tablename__ = "download"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    """user, client or server."""
    subject: Mapped[str] = mapped_column(String(64), index=True)
    """The participant's name."""
    form: Mapped[str] = mapped_column(String(10))
    """kit, or answer: the certificate for a key that was made at the site."""
    serial: Mapped[str] = mapped_column(String(64))
    by_email: Mapped[str] = mapped_column(String(64))
    """As text: the record outlives the account."""
    address: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """Of the ticket under which the archive lies ready, once."""
    made_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment)
    taken_at: Mapped[datetime | None] = mapped_column(Moment, default=None)

"""What the REST interface takes and gives, in the reference's names; OpenAPI is made from the same classes."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from clouddeploy.dashboard import approvals
from clouddeploy.dashboard.rules import Role

if TYPE_CHECKING:
    from clouddeploy.dashboard import listing, model
    from clouddeploy.dashboard.settings import Counts

Name = Annotated[str, StringConstraints(max_length=200)]
Word = Annotated[str, StringConstraints(max_length=64)]
Long = Annotated[str, StringConstraints(max_length=5000)]
Password = Annotated[str, StringConstraints(max_length=256)]
Host = Annotated[str, StringConstraints(max_length=253)]
Date = Annotated[str, StringConstraints(max_length=10, pattern=r"^(\d{4}-\d{2}-\d{2})?$")]


class Taken(BaseModel):
    """What is taken: no unknown field, so that a misspelt one does not pass for done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changes(self) -> dict[str, Any]:
        """Returns what was sent; null means the same as leaving it out."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class LoginIn(Taken):
    """POST /login."""

    email: Word
    password: Password
    code: Word = ""
    """Of the second factor, for who has one."""


class ProjectIn(Taken):
    """PATCH /project."""

    short_name: Word | None = None
    title: Name | None = None
    description: Long | None = None
    app_location: Annotated[str, StringConstraints(max_length=500)] | None = None
    starting_date: Date | None = None
    end_date: Date | None = None
    public: bool | None = None
    frozen: bool | None = None
    require_second_factor: bool | None = None
    server1: Host | None = None
    server_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    server_host_names: Annotated[list[Host], Field(max_length=20)] | None = None


class UserIn(Taken):
    """POST /users: a sign-up."""

    email: Word
    password: Password
    name: Name = ""
    description: Long = ""
    organization: Word = ""
    role: Role = Role.MEMBER
    invitation: Word = ""


class UserChange(Taken):
    """PATCH /users/{id}; the last three are the project admin's."""

    name: Name | None = None
    description: Long | None = None
    password: Password | None = None
    role: Role | None = None
    organization: Word | None = None
    approval_state: int | None = None


class Capacity(Taken):
    """What a site offers to jobs."""

    num_of_gpus: Annotated[int, Field(ge=0, le=1000)] = 0
    mem_per_gpu_in_GiB: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 0.0  # noqa: N815


class SiteIn(Taken):
    """POST /clients."""

    name: Word
    organization: Word = ""
    description: Long = ""
    capacity: Capacity = Capacity()


class SiteChange(Taken):
    """PATCH /clients/{id}; the last two are the project admin's."""

    name: Word | None = None
    description: Long | None = None
    capacity: Capacity | None = None
    organization: Word | None = None
    approval_state: int | None = None


class BlobIn(Taken):
    """POST …/blob; without `pin` a code is made, and told in the header `X-Kit-Code`."""

    pin: Annotated[str, StringConstraints(max_length=128)] | None = None


class InvitationIn(Taken):
    """POST /invitations."""

    role: Role
    organization: Word
    email: Word = ""


class TokenIn(Taken):
    """POST /tokens."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    scopes: Annotated[list[Literal["read", "write", "kits", "approve", "deploy"]], Field(min_length=1)]
    days: Annotated[int, Field(ge=1, le=365)] = 30


class Done(BaseModel):
    """It was done."""

    status: str = "ok"


class ErrorOut(BaseModel):
    """It was not done, and why."""

    status: str
    code: str
    message: str
    hint: str = ""


class WhoOut(BaseModel):
    """Who logged in."""

    id: int
    email: str
    role: str


class LoginOut(Done):
    """Of POST /login."""

    user: WhoOut
    access_token: str
    expires_at: datetime


class ProjectOut(BaseModel):
    """The project; never a key."""

    short_name: str = ""
    title: str = ""
    description: str = ""
    app_location: str = ""
    starting_date: str = ""
    end_date: str = ""
    public: bool
    frozen: bool
    require_second_factor: bool = False
    server1: str = ""
    server_port: int = 0
    server_host_names: list[str] = []
    num_clients: int = 0
    num_orgs: int = 0
    num_users: int = 0

    @classmethod
    def of(cls, one: model.Project, counts: Counts) -> ProjectOut:
        """Returns the project as it is told."""
        return cls(
            short_name=one.short_name,
            title=one.title,
            description=one.description,
            app_location=one.app_location,
            starting_date=one.starting_date,
            end_date=one.end_date,
            public=one.is_public,
            frozen=one.is_frozen,
            require_second_factor=one.needs_second_factor,
            server1=one.server,
            server_port=one.server_port,
            server_host_names=list(one.server_hosts),
            num_clients=counts.sites,
            num_orgs=counts.organizations,
            num_users=counts.users,
        )


class ProjectReply(Done):
    """Of GET and PATCH /project."""

    project: ProjectOut


class PageOut(BaseModel):
    """Which part of a list this is."""

    page: int
    per_page: int
    total: int

    @classmethod
    def of(cls, found: listing.Page[Any]) -> PageOut:
        """Returns what the list says of itself."""
        return cls(page=found.wanted.page, per_page=found.wanted.per_page, total=found.total)


class OrganizationOut(BaseModel):
    """An organisation."""

    id: int
    name: str


class OrganizationsReply(Done):
    """Of GET /organizations: the same list under the name in the reference's code and in its document."""

    client_list: list[OrganizationOut]
    org_list: list[OrganizationOut]
    paging: PageOut


class UserOut(BaseModel):
    """Somebody; never their password, nor its hash."""

    id: int
    email: str
    name: str
    description: str
    role: str
    organization: str
    approval_state: int
    download_count: int
    digest: str
    """Of all of this: an approval sends it in the header If-Match."""

    @classmethod
    def of(cls, one: model.User) -> UserOut:
        """Returns somebody as they are told."""
        return cls(
            id=one.id,
            email=one.email,
            name=one.name,
            description=one.description,
            role=one.role,
            organization=one.organization.name,
            approval_state=one.approval_state,
            download_count=one.download_count,
            digest=approvals.digest(one),
        )


class UserReply(Done):
    """Of calls on one user."""

    user: UserOut


class UsersReply(Done):
    """Of GET /users."""

    user_list: list[UserOut]
    paging: PageOut


class SiteOut(BaseModel):
    """A site."""

    id: int
    name: str
    description: str
    organization: str
    creator: str
    capacity: Capacity
    approval_state: int
    download_count: int
    digest: str
    """As with somebody."""

    @classmethod
    def of(cls, one: model.Site) -> SiteOut:
        """Returns a site as it is told."""
        return cls(
            id=one.id,
            name=one.name,
            description=one.description,
            organization=one.organization.name,
            creator=one.creator.email,
            capacity=Capacity(num_of_gpus=one.num_of_gpus, mem_per_gpu_in_GiB=one.mem_per_gpu_in_gib),
            approval_state=one.approval_state,
            download_count=one.download_count,
            digest=approvals.digest(one),
        )


class SiteReply(Done):
    """Of calls on one site."""

    client: SiteOut


class SitesReply(Done):
    """Of GET /clients."""

    client_list: list[SiteOut]
    paging: PageOut


class ReissueReply(Done):
    """Of POST …/reissue."""

    revoked: bool


class InvitationReply(Done):
    """Of POST /invitations: the secret of the link, told once."""

    invitation: str
    path: str


class TokenOut(BaseModel):
    """A token, without what it shows."""

    id: int
    name: str
    scopes: list[str]
    created_at: datetime
    seen_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, one: model.Login) -> TokenOut:
        """Returns a token as it is told."""
        return cls(
            id=one.id,
            name=one.name,
            scopes=one.scopes.split(),
            created_at=one.created_at,
            seen_at=one.seen_at,
            expires_at=one.expires_at,
        )


class TokensReply(Done):
    """Of GET /tokens."""

    token_list: list[TokenOut]
    paging: PageOut


class TokenReply(Done):
    """Of POST /tokens: the token itself, told once."""

    token: str
    expires_at: datetime


class CertificateOut(BaseModel):
    """A certificate of the project, see `clouddeploy cert list`."""

    name: str
    kind: str
    org: str
    role: str
    serial: str
    not_after: datetime
    state: str
    reason: str


class CertificatesReply(Done):
    """Of GET /certificates."""

    certificate_list: list[CertificateOut]
    paging: PageOut


class AuditReply(Done):
    """Of GET /audit: entries, the newest first."""

    entry_list: list[dict[str, Any]]

# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterRequest(_message.Message):
    __slots__ = ("project", "name", "version", "active_jobs", "kind", "proof", "instance")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_JOBS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    project: str
    name: str
    version: str
    active_jobs: _containers.RepeatedScalarFieldContainer[str]
    kind: str
    proof: bytes
    instance: str
    def __init__(self, project: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., active_jobs: _Optional[_Iterable[str]] = ..., kind: _Optional[str] = ..., proof: _Optional[bytes] = ..., instance: _Optional[str] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("token", "heartbeat_s", "token_signature", "ended_jobs")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ENDED_JOBS_FIELD_NUMBER: _ClassVar[int]
    token: str
    heartbeat_s: float
    token_signature: bytes
    ended_jobs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, token: _Optional[str] = ..., heartbeat_s: _Optional[float] = ..., token_signature: _Optional[bytes] = ..., ended_jobs: _Optional[_Iterable[str]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobEnded(_message.Message):
    __slots__ = ("job_id", "reason", "crashed")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CRASHED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    crashed: bool
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., crashed: _Optional[bool] = ...) -> None: ...

class TaskFailed(_message.Message):
    __slots__ = ("job_id", "task_id", "reason", "task_checksum")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TASK_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task_id: str
    reason: str
    task_checksum: str
    def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., reason: _Optional[str] = ..., task_checksum: _Optional[str] = ...) -> None: ...

class JobDeployed(_message.Message):
    __slots__ = ("job_id", "reason", "scope")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    scope: str
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., scope: _Optional[str] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("job_id", "reservation", "reason", "offer")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reservation: str
    reason: str
    offer: bytes
    def __init__(self, job_id: _Optional[str] = ..., reservation: _Optional[str] = ..., reason: _Optional[str] = ..., offer: _Optional[bytes] = ...) -> None: ...

class SiteAnswer(_message.Message):
    __slots__ = ("id", "document", "code", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    document: bytes
    code: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., document: _Optional[bytes] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ClientEvent(_message.Message):
    __slots__ = ("heartbeat", "job_ended", "task_failed", "job_deployed", "resources", "site_answer")
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    JOB_ENDED_FIELD_NUMBER: _ClassVar[int]
    TASK_FAILED_FIELD_NUMBER: _ClassVar[int]
    JOB_DEPLOYED_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SITE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    heartbeat: Heartbeat
    job_ended: JobEnded
    task_failed: TaskFailed
    job_deployed: JobDeployed
    resources: Resources
    site_answer: SiteAnswer
    def __init__(self, heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., job_ended: _Optional[_Union[JobEnded, _Mapping]] = ..., task_failed: _Optional[_Union[TaskFailed, _Mapping]] = ..., job_deployed: _Optional[_Union[JobDeployed, _Mapping]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., site_answer: _Optional[_Union[SiteAnswer, _Mapping]] = ...) -> None: ...

class CheckResources(_message.Message):
    __slots__ = ("job_id", "need", "manifest")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    need: bytes
    manifest: bytes
    def __init__(self, job_id: _Optional[str] = ..., need: _Optional[bytes] = ..., manifest: _Optional[bytes] = ...) -> None: ...

class ReleaseResources(_message.Message):
    __slots__ = ("job_id", "reservation")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reservation: str
    def __init__(self, job_id: _Optional[str] = ..., reservation: _Optional[str] = ...) -> None: ...

class StartJob(_message.Message):
    __slots__ = ("job_id", "app", "sites", "blob", "size", "checksum", "submitter", "submitter_org", "submitter_role", "manifest", "reservation", "study")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_ORG_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_ROLE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    app: str
    sites: _containers.RepeatedScalarFieldContainer[str]
    blob: str
    size: int
    checksum: str
    submitter: str
    submitter_org: str
    submitter_role: str
    manifest: bytes
    reservation: str
    study: str
    def __init__(self, job_id: _Optional[str] = ..., app: _Optional[str] = ..., sites: _Optional[_Iterable[str]] = ..., blob: _Optional[str] = ..., size: _Optional[int] = ..., checksum: _Optional[str] = ..., submitter: _Optional[str] = ..., submitter_org: _Optional[str] = ..., submitter_role: _Optional[str] = ..., manifest: _Optional[bytes] = ..., reservation: _Optional[str] = ..., study: _Optional[str] = ...) -> None: ...

class RunTask(_message.Message):
    __slots__ = ("job_id", "task", "blob", "size", "checksum")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task: bytes
    blob: str
    size: int
    checksum: str
    def __init__(self, job_id: _Optional[str] = ..., task: _Optional[bytes] = ..., blob: _Optional[str] = ..., size: _Optional[int] = ..., checksum: _Optional[str] = ...) -> None: ...

class AbortJob(_message.Message):
    __slots__ = ("job_id", "reason", "command")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    command: bytes
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., command: _Optional[bytes] = ...) -> None: ...

class StopSite(_message.Message):
    __slots__ = ("restart", "user", "user_org", "user_role", "command")
    RESTART_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    USER_ORG_FIELD_NUMBER: _ClassVar[int]
    USER_ROLE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    restart: bool
    user: str
    user_org: str
    user_role: str
    command: bytes
    def __init__(self, restart: _Optional[bool] = ..., user: _Optional[str] = ..., user_org: _Optional[str] = ..., user_role: _Optional[str] = ..., command: _Optional[bytes] = ...) -> None: ...

class Revocations(_message.Message):
    __slots__ = ("crl",)
    CRL_FIELD_NUMBER: _ClassVar[int]
    crl: bytes
    def __init__(self, crl: _Optional[bytes] = ...) -> None: ...

class AskSite(_message.Message):
    __slots__ = ("id", "command")
    ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    id: str
    command: bytes
    def __init__(self, id: _Optional[str] = ..., command: _Optional[bytes] = ...) -> None: ...

class ServerEvent(_message.Message):
    __slots__ = ("heartbeat", "start_job", "run_task", "abort_job", "revocations", "check_resources", "release_resources", "stop_site", "ask_site")
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    START_JOB_FIELD_NUMBER: _ClassVar[int]
    RUN_TASK_FIELD_NUMBER: _ClassVar[int]
    ABORT_JOB_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    CHECK_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RELEASE_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    STOP_SITE_FIELD_NUMBER: _ClassVar[int]
    ASK_SITE_FIELD_NUMBER: _ClassVar[int]
    heartbeat: Heartbeat
    start_job: StartJob
    run_task: RunTask
    abort_job: AbortJob
    revocations: Revocations
    check_resources: CheckResources
    release_resources: ReleaseResources
    stop_site: StopSite
    ask_site: AskSite
    def __init__(self, heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., start_job: _Optional[_Union[StartJob, _Mapping]] = ..., run_task: _Optional[_Union[RunTask, _Mapping]] = ..., abort_job: _Optional[_Union[AbortJob, _Mapping]] = ..., revocations: _Optional[_Union[Revocations, _Mapping]] = ..., check_resources: _Optional[_Union[CheckResources, _Mapping]] = ..., release_resources: _Optional[_Union[ReleaseResources, _Mapping]] = ..., stop_site: _Optional[_Union[StopSite, _Mapping]] = ..., ask_site: _Optional[_Union[AskSite, _Mapping]] = ...) -> None: ...

"""What the REST interface takes and gives on what runs: the federation, and runs of deployments."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from clouddeploy.dashboard.web.shapes import Done, PageOut, Taken

if TYPE_CHECKING:
    from clouddeploy_provision.certificate_authority import CertificateStatus
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.jobs.rounds import Round

    from clouddeploy.dashboard.deploying import Deployment
    from clouddeploy.dashboard.runs import Run
    from clouddeploy.dashboard.site_states import SiteState


class ValidityOut(BaseModel):
    """When a certificate ends, and how it is: valid, expires-soon, expires-now or expired."""

    not_after: datetime
    state: str

    @classmethod
    def of(cls, one: CertificateStatus | None) -> ValidityOut | None:
        """Returns what is told of a certificate; None: there is none yet."""
        return cls(not_after=one.not_after, state=one.state) if one is not None else None


class LiveOut(BaseModel):
    """How the federation was last seen."""

    line: str
    """idle, not frozen, connecting, connected or away; what is told besides is of the last time it was connected."""
    at: datetime | None
    why: str
    hint: str
    server: str
    server_state: str
    server_since: str
    server_certificate: ValidityOut | None
    num_connected: int
    num_clients: int
    """Approved sites."""


class LiveReply(Done):
    """Of GET /live."""

    live: LiveOut


class LiveSiteOut(BaseModel):
    """An approved site."""

    name: str
    organization: str
    state: str
    """connected, disabled or away."""
    silent_s: float | None
    """How long ago the server heard of it; null: it is not connected, or the server does not say."""
    connected_since: str
    num_jobs: int
    certificate: ValidityOut | None

    @classmethod
    def of(cls, one: SiteState) -> LiveSiteOut:
        """Returns a site as it is told."""
        client = one.client
        return cls(
            name=one.name,
            organization=one.org,
            state=one.state,
            silent_s=client.silent_s if client is not None else None,
            connected_since=client.connected_since if client is not None else "",
            num_jobs=len(client.jobs) + client.other_jobs if client is not None else 0,
            certificate=ValidityOut.of(one.certificate),
        )


class LiveSitesReply(Done):
    """Of GET /live/clients."""

    client_list: list[LiveSiteOut]
    paging: PageOut


class LiveJobOut(BaseModel):
    """A job, and how far it is."""

    job_id: str
    name: str
    state: str
    reason: str
    submitter: str
    submit_time: str
    duration_s: float
    rounds: int
    total_rounds: int
    clients: list[str]
    metrics: dict[str, float | None]
    """Of the newest round that was read; null: infinite, or no number."""

    @classmethod
    def of(cls, one: JobInfo) -> LiveJobOut:
        """Returns a job as it is told."""
        return cls(
            job_id=one.job_id,
            name=one.name,
            state=one.status.value,
            reason=one.reason,
            submitter=one.submitter,
            submit_time=one.submit_time,
            duration_s=one.duration_s,
            rounds=one.rounds,
            total_rounds=one.total_rounds,
            clients=list(one.sites),
            metrics=dict(one.history[-1].metrics) if one.history else {},
        )


class LiveJobsReply(Done):
    """Of GET /live/jobs: the newest first."""

    job_list: list[LiveJobOut]
    paging: PageOut


class RoundOut(BaseModel):
    """A finished round of a job."""

    round: int
    """From 1."""
    seconds: float
    metrics: dict[str, float | None]
    """What the controller reported; null: infinite, or no number."""
    bytes_down: int
    """Sent to all sites together."""
    bytes_up: int
    answered: int
    failed: int
    reasons: list[str]
    """Why sites failed, the first few."""

    @classmethod
    def of(cls, one: Round) -> RoundOut:
        """Returns a round as it is told."""
        return cls(
            round=one.round,
            seconds=one.seconds,
            metrics=dict(one.metrics),
            bytes_down=one.bytes_down,
            bytes_up=one.bytes_up,
            answered=one.answered,
            failed=one.failed,
            reasons=list(one.reasons),
        )


class RoundsReply(Done):
    """Of GET /live/jobs/{job}/rounds: the oldest first, of a long job the last thousand."""

    job_id: str
    rounds: int
    """Finished; the newest of them may not be read yet."""
    total_rounds: int
    round_list: list[RoundOut]
    paging: PageOut


class RunIn(Taken):
    """POST /deployments/{name}/runs."""

    verb: Literal["plan", "rehearse", "apply", "destroy"]
    sure: bool = False
    """apply and destroy want it: they cost, or end something."""


class PlacedOut(BaseModel):
    """A site of a deployment, and which cloud it is in."""

    name: str
    provider: str


class DeploymentOut(BaseModel):
    """A deployment, and the run that runs or ran last."""

    name: str
    client_list: list[PlacedOut]
    problem: str
    """Why the deploy file cannot be read; empty: it can."""
    busy: bool
    verb: str
    state: str
    """running, done or failed; empty: nothing was done with it from here."""
    began: str
    by: str
    resources: int | None
    usd_per_hour: float | None
    """Of what there is; null: it is not known."""

    @classmethod
    def of(cls, one: Deployment) -> DeploymentOut:
        """Returns a deployment as it is told."""
        run = one.run
        result = run.result if run is not None else {}
        return cls(
            name=one.file.name,
            client_list=[PlacedOut(name=name, provider=provider) for name, provider in one.file.sites],
            problem=one.file.problem,
            busy=one.is_busy,
            verb=run.verb if run is not None else "",
            state=one.state,
            began=run.began if run is not None else "",
            by=run.by if run is not None else "",
            resources=result.get("resources"),
            usd_per_hour=result.get("usd_per_hour"),
        )


class DeploymentsReply(Done):
    """Of GET /deployments."""

    deployment_list: list[DeploymentOut]
    paging: PageOut


class FailureOut(BaseModel):
    """Why a run failed."""

    code: str
    message: str
    hint: str = ""


class ChangeOut(BaseModel):
    """One line of a plan."""

    action: str
    node: str
    name: str
    place: str
    size: str
    reason: str
    usd_per_hour: float | None


class RunOut(BaseModel):
    """A run of a deployment, and what it came to once it has ended."""

    verb: str
    by: str
    began: str
    cancelled: bool
    num_events: int
    text: str
    error: FailureOut | None
    changes: list[ChangeOut]
    notes: list[str]
    planned_usd_per_hour: float | None

    @classmethod
    def of(cls, one: Run) -> RunOut:
        """Returns a run as it is told."""
        told: dict[str, Any] = dict(one.result)
        return cls(
            verb=one.verb,
            by=one.by,
            began=one.began,
            cancelled=one.is_cancelled,
            num_events=len(one.lines),
            text=told.get("text", ""),
            error=FailureOut(**told["error"]) if told.get("error") else None,
            changes=[ChangeOut(**change) for change in told.get("changes", ())],
            notes=list(told.get("notes", ())),
            planned_usd_per_hour=told.get("planned_usd_per_hour"),
        )


class DeploymentReply(Done):
    """Of calls on one deployment."""

    deployment: DeploymentOut
    run: RunOut | None

    @classmethod
    def of(cls, one: Deployment) -> DeploymentReply:
        """Returns a deployment as it is told."""
        return cls(deployment=DeploymentOut.of(one), run=RunOut.of(one.run) if one.run is not None else None)


class EventsReply(Done):
    """Of GET /deployments/{name}/events: one line each, the oldest first; more may come while it is busy."""

    event_list: list[str]
    busy: bool
    began: str
    """Of the run whose events these are: another one begins anew."""
    paging: PageOut

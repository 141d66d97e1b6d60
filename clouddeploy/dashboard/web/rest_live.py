"""The running federation by REST: the server, the sites with heartbeat and certificate, the jobs."""

from __future__ import annotations

from clouddeploy.dashboard import listing, site_states
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import NotFound
from clouddeploy.dashboard.rules import Action
from clouddeploy.dashboard.settings import counts
from clouddeploy.dashboard.web import running_shapes as shapes
from clouddeploy.dashboard.web.asking import Ask, Reply
from clouddeploy.dashboard.web.calls import Call
from clouddeploy.dashboard.web.shapes import PageOut


def _live(ask: Ask) -> Reply:
    with ask.visit() as visit:
        known = site_states.certificates(visit)
        project, sites = project_of(visit.db), counts(visit.db).sites
        server = project.server
    seen = ask.desk.live.attend()
    system = seen.system
    told = shapes.LiveOut(
        line=seen.line.value,
        at=seen.at,
        why=seen.why,
        hint=seen.hint,
        server=server,
        server_state=system.state if system is not None else "",
        server_since=system.since if system is not None else "",
        server_certificate=shapes.ValidityOut.of(known.get(server)),
        num_connected=len(system.clients) if system is not None else 0,
        num_clients=sites,
    )
    return Reply(shapes.LiveReply(live=told))


def _sites(ask: Ask) -> Reply:
    with ask.visit() as visit:
        known = site_states.certificates(visit)
        found = site_states.page(visit, ask.wanted, ask.desk.live.attend(), known)
    rows = [shapes.LiveSiteOut.of(one) for one in found.rows]
    return Reply(shapes.LiveSitesReply(client_list=rows, paging=PageOut.of(found)))


def _jobs(ask: Ask) -> Reply:
    with ask.visit() as visit:
        visit.require(Action.LIVE_VIEW)
    found = listing.part(ask.desk.live.attend().jobs, ask.wanted, said=lambda one: [one.job_id, one.name])
    rows = [shapes.LiveJobOut.of(one) for one in found.rows]
    return Reply(shapes.LiveJobsReply(job_list=rows, paging=PageOut.of(found)))


def _rounds(ask: Ask) -> Reply:
    with ask.visit() as visit:
        visit.require(Action.LIVE_VIEW)
    wanted = ask.path["job"]
    job = next((one for one in ask.desk.live.attend().jobs if one.job_id == wanted), None)
    if job is None:
        raise NotFound("there is no such job", why="it is not among the newest that were seen", hint="GET /live/jobs")
    found = listing.part(job.history, ask.wanted, said=lambda one: one.metrics)
    told = shapes.RoundsReply(
        job_id=job.job_id,
        rounds=job.rounds,
        total_rounds=job.total_rounds,
        round_list=[shapes.RoundOut.of(one) for one in found.rows],
        paging=PageOut.of(found),
    )
    return Reply(told)


CALLS: tuple[Call, ...] = (
    Call("GET", "/live", "How the federation was last seen; asking has it looked at.", _live, gives=shapes.LiveReply),
    Call("GET", "/live/clients", "The approved sites: connected or not, since when, until when.", _sites,
         gives=shapes.LiveSitesReply),
    Call("GET", "/live/jobs", "The newest jobs and how far they are.", _jobs, gives=shapes.LiveJobsReply),
    Call("GET", "/live/jobs/{job}/rounds", "A job's finished rounds and their metrics, the oldest first.", _rounds,
         gives=shapes.RoundsReply),
)  # fmt: skip

"""Deployments by REST: what there is and what it costs, and runs that are started, followed and stopped."""

from __future__ import annotations

from clouddeploy.dashboard import deploy_files, deploying, listing
from clouddeploy.dashboard.rules import Scope
from clouddeploy.dashboard.web import running_shapes as shapes
from clouddeploy.dashboard.web.asking import Ask, Reply
from clouddeploy.dashboard.web.calls import Call
from clouddeploy.dashboard.web.shapes import PageOut


def _deployments(ask: Ask) -> Reply:
    with ask.visit() as visit:
        found = listing.part(deploying.every(visit), ask.wanted, said=lambda one: [one.file.name, one.providers])
    rows = [shapes.DeploymentOut.of(one) for one in found.rows]
    return Reply(shapes.DeploymentsReply(deployment_list=rows, paging=PageOut.of(found)))


def _deployment(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return Reply(shapes.DeploymentReply.of(deploying.get(visit, ask.path["name"])))


def _events(ask: Ask) -> Reply:
    with ask.visit() as visit:
        one = deploying.get(visit, ask.path["name"])
    run = one.run
    found = listing.part(run.lines if run is not None else (), ask.wanted, said=lambda line: [line])
    return Reply(
        shapes.EventsReply(
            event_list=list(found.rows),
            busy=one.is_busy,
            began=run.began if run is not None else "",
            paging=PageOut.of(found),
        )
    )


def _keep(ask: Ask) -> Reply:
    name = ask.path["name"]
    with ask.visit() as visit:
        is_new = deploy_files.keep(visit, name, ask.upload)
        return Reply(shapes.DeploymentReply.of(deploying.get(visit, name)), 201 if is_new else 200)


def _start(ask: Ask) -> Reply:
    with ask.visit() as visit:
        one = deploying.start(visit, ask.path["name"], ask.body.verb, is_sure=ask.body.sure)
    return Reply(shapes.DeploymentReply.of(one), 202)


def _stop(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return Reply(shapes.DeploymentReply.of(deploying.stop(visit, ask.path["name"])), 202)


CALLS: tuple[Call, ...] = (
    Call("GET", "/deployments", "The deployments, their state and their cost.", _deployments,
         gives=shapes.DeploymentsReply),
    Call("GET", "/deployments/{name}", "A deployment, and what its last run came to.", _deployment,
         gives=shapes.DeploymentReply),
    Call("PUT", "/deployments/{name}", "Send a deploy file in, in the place of an earlier one of the name.", _keep,
         gives=shapes.DeploymentReply, scope=Scope.DEPLOY, in_turn=True, takes_file="application/yaml"),
    Call("GET", "/deployments/{name}/events", "What happened in the run, the oldest first.", _events,
         gives=shapes.EventsReply),
    Call("POST", "/deployments/{name}/runs", "Plan, rehearse, apply or destroy.", _start, shapes.RunIn,
         shapes.DeploymentReply, scope=Scope.DEPLOY, status=202, in_turn=True),
    Call("POST", "/deployments/{name}/stop", "Have the run stop after what is in flight.", _stop,
         gives=shapes.DeploymentReply, scope=Scope.DEPLOY, status=202, in_turn=True),
)  # fmt: skip

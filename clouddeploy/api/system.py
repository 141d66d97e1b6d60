"""Calls about the federation: who is there, what they have, stopping and starting them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClientsRunning, JobsRunning
from clouddeploy_runtime.jobs import SERVER

from clouddeploy import stopping
from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import InvalidTarget
from clouddeploy.api.status import ClientInfo, JobInfo, ServerInfo, SystemInfo, TargetType, moment
from clouddeploy.api.targets import answers, listed, target_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.admin.status import SystemStatus


class SystemCalls(Connection):
    """What a session sees of the federation, and how it ends parts of it."""

    def get_system_info(self) -> SystemInfo:
        """Return the server's state, its connected clients and the running jobs."""
        document = self._status()
        return SystemInfo(
            ServerInfo(document.get("state", ""), moment(document.get("since", ""))),
            [_client(one) for one in document["clients"]],
            [JobInfo(one["job_id"], one["name"]) for one in document.get("jobs", ())],
        )

    def get_connected_client_list(self) -> list[ClientInfo]:
        """Return the connected clients."""
        return self.get_system_info().client_info

    def check_status(self, target_type: str, targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what runs at the server or at clients.

        Args:
            target_type: `server`, `client` or `all`.
            targets: with `client`, names; None: every connected client.

        Returns:
            Participant → its status: of the server its `state`, `clients`, `disabled` clients and `jobs`; of a client
            its `jobs`; of one that did not answer, `error_code` and `message`.

        Raises:
            InvalidTarget: a client is not connected.
            NoClientsAvailable: clients are asked, and there is none.
        """
        target, found = target_of(target_type, targets), dict[str, Any]()
        if target in {TargetType.SERVER, TargetType.ALL}:
            found[SERVER] = self._status()
        if target == TargetType.SERVER or (target == TargetType.ALL and not found[SERVER]["clients"]):
            return found
        with self._calling() as admin:
            return found | answers(admin.sites.check_status(() if isinstance(target, str) else target))

    def get_client_job_status(self, client_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return what runs at clients: `client_name`, `job_id`, `app_name`, `status`, an entry for each job.

        A client without jobs has one entry with the status `No Jobs`, one that did not answer one with its error.

        Raises:
            InvalidTarget: a client is not connected.
            NoClientsAvailable: there is none.
        """
        entries: list[dict[str, Any]] = []
        for name, said in self.check_status(TargetType.CLIENT, listed(client_names)).items():
            jobs = [(one.get("job_id", ""), one.get("app", ""), one["status"]) for one in said.get("jobs", ())]
            for job_id, app, status in jobs or [("", "", said.get("error_code", "No Jobs"))]:
                entries.append({"client_name": name, "job_id": job_id, "app_name": app, "status": status})
        return entries

    def report_resources(self, target_type: str = "client", targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return client → what it has for jobs, and what of it is free; a client that does not answer is left out.

        The server, which gives jobs no GPUs, is there with an empty entry when it is asked.

        Raises:
            InvalidTarget: a client is not connected.
        """
        target = target_of(target_type, targets)
        found: dict[str, Any] = {} if target_type == TargetType.CLIENT else {SERVER: {}}
        if target == TargetType.SERVER:
            return found
        with self._calling() as admin:
            said = admin.report_resources()
        if isinstance(target, tuple):
            self._require_connected(target, self._status())
            return {name: said[name] for name in target if name in said}
        return found | said

    def remove_client(self, client_name: str) -> None:
        """End a client's session; it registers again by itself.

        Raises:
            InvalidTarget: it is not connected.
        """
        with self._calling() as admin:
            admin.remove_client(client_name)

    def disable_client(self, client_name: str) -> dict[str, Any]:
        """Keep a client out until it is enabled, over restarts of the server too; returns what was done."""
        with self._calling() as admin:
            admin.disable_client(client_name)
        return {"status": "ok", "client": client_name, "is_disabled": True}

    def enable_client(self, client_name: str) -> dict[str, Any]:
        """Let a disabled client in again; it comes by itself. Returns what was done.

        Raises:
            InvalidTarget: it is not disabled.
        """
        with self._calling() as admin:
            admin.enable_client(client_name)
        return {"status": "ok", "client": client_name, "is_disabled": False}

    def shutdown(
        self,
        target_type: str,
        client_names: Sequence[str] | None = None,
        wait: bool = True,
        timeout: float = 30.0,
        *,
        force: bool = False,
    ) -> dict[str, Any]:
        """Stop the server, clients, or first the clients and then the server.

        Args:
            target_type: `server`, `client` or `all`.
            client_names: with `client`, names; None: every connected client.
            wait: until they are gone.
            timeout: how long to wait, in seconds.
            force: although jobs run, and the server although clients are connected; jobs end with the server.

        Returns:
            `status`: `ok`, or `incomplete` when some were not seen to go in time; `server_status` and `client_status`,
            name → status, of those that were asked.

        Raises:
            JobNotDone: jobs run.
            ClientsStillRunning: only the server is to stop, and clients are connected.
            NoClientsAvailable: clients are to stop, and none is connected.
            InvalidTarget: a client is not connected.
            AuthorizationError: this person may not.
        """
        return self._end(target_type, client_names, wait_s=timeout if wait else 0, force=force, is_restart=False)

    def restart(
        self,
        target_type: str,
        client_names: Sequence[str] | None = None,
        wait: bool = True,
        timeout: float = 30.0,
        *,
        force: bool = False,
    ) -> dict[str, Any]:
        """Let their supervisors start the server, clients or all of them again; jobs that run go on.

        Arguments, result and errors are those of `shutdown`, but that the server may be restarted with its clients
        connected. Waits until they are there again.
        """
        return self._end(target_type, client_names, wait_s=timeout if wait else 0, force=force, is_restart=True)

    def shutdown_system(self) -> None:
        """Stop the whole federation: every client, then the server.

        Raises:
            JobNotDone: jobs run.
            AuthorizationError: this person may not.
        """
        self.shutdown(TargetType.ALL)

    def _end(
        self, target_type: str, names: Sequence[str] | None, *, wait_s: float, force: bool, is_restart: bool
    ) -> dict[str, Any]:
        target = target_of(target_type, names)
        wanted = target if isinstance(target, tuple) else ()
        with self._calling() as admin:
            before = admin.system_status()
            try:
                stopping.check(before, kind=target_type, names=wanted, is_restart=is_restart, is_forced=force)
            except (JobsRunning, ClientsRunning) as error:
                wait = "Wait for them, abort them" if isinstance(error, JobsRunning) else "Shut down `all`"
                error.hint = f"{wait}, or pass force=True."
                raise
            return _ended(
                admin, before, kind=target_type, names=wanted, wait_s=wait_s, force=force, is_restart=is_restart
            )

    def _require_connected(self, names: tuple[str, ...], document: Mapping[str, Any]) -> tuple[str, ...]:
        missing = set(names) - {one["name"] for one in document["clients"]}
        if missing:
            raise InvalidTarget(
                f"{', '.join(sorted(missing))} is not connected", hint="`get_system_info` names those that are."
            )
        return names

    def _status(self) -> dict[str, Any]:
        with self._calling() as admin:
            return dict(admin.ask("system_status"))


def _ended(
    admin: AdminSession,
    before: SystemStatus,
    *,
    kind: str,
    names: Sequence[str],
    wait_s: float,
    force: bool,
    is_restart: bool,
) -> dict[str, Any]:
    """Stop clients, then the server, and return who was seen to go; who does not wait is told that all did."""
    deadline, found = time.monotonic() + wait_s, dict[str, Any](status="ok")
    clients = () if kind == TargetType.SERVER else tuple(names or (one.name for one in before.clients))
    for phase in ([TargetType.CLIENT] if clients else []) + ([TargetType.SERVER] if kind != TargetType.CLIENT else []):
        stopping.stop(admin, kind=phase, names=names, is_restart=is_restart, is_forced=force)
        left_s = max(0.0, deadline - time.monotonic())
        # The server must be there until clients know: it is asked to wait even when the caller does not.
        missing = stopping.left(admin, before, kind=phase, names=names, is_restart=is_restart, timeout_s=left_s)
        said = {name: "no_reply" if wait_s and name in missing else "ok" for name in clients}
        if phase == TargetType.CLIENT:
            found["client_status"] = said
        else:
            found["server_status"] = "no_reply" if wait_s and missing else "ok"
    if "no_reply" in {found.get("server_status"), *found.get("client_status", {}).values()}:
        found["status"] = "incomplete"
    return found


def _client(document: Mapping[str, Any]) -> ClientInfo:
    since = moment(document.get("connected_since", ""))
    return ClientInfo(document["name"], since, document.get("address", ""), tuple(document.get("jobs", ())))

"""Sites of a job that answer a real controller over a real socket, without processes and without a network."""

from __future__ import annotations

import contextlib
import socket
import threading

import numpy as np
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Abort, Progress, Result, SiteFailed, Task

NAMES = ("site-1", "site-2", "site-3")


class Sites:
    """Answers each task with what `answer(site, task, params)` returns.

    That is parameters and a `meta`; or a text, why the site failed; or None, so that the site says nothing.
    """

    def __init__(self, answer):
        self.answer = answer
        self.tasks = []
        self.rounds = []
        self.stop_at = None
        """The number of tasks after which the server is gone."""
        self._sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pool = BufferPool(1 << 24)
        self.channel = Channel(self._sockets[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def make(self, kind, folder, *, sites=NAMES, job_id="job", **arguments):
        made = kind(self.channel, sites=sites, run_dir=folder, job_id=job_id)
        made.configure(**arguments)
        return made

    def close(self):
        with contextlib.suppress(OSError):
            self._sockets[0].shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        for one in self._sockets:
            one.close()
        for pool in (self._pool, self.channel.pool):
            pool.close()

    def _run(self):
        channel = Channel(self._sockets[0])
        while (received := channel.receive()) is not None:
            message, buffer = received
            if isinstance(message, Progress):
                self.rounds.append((message.round, message.total_rounds, message.metrics))
            if not isinstance(message, Task):
                continue
            self.tasks.append(message)
            params = {name: one.copy() for name, one in tensors.read(buffer.view[: message.size]).items()}
            buffer.release()
            if self.stop_at is not None and len(self.tasks) > self.stop_at:
                channel.send(Abort("the server is killed"))
                continue
            for site in message.targets:
                self._reply(channel, site, message, params)

    def _reply(self, channel, site, task, params):
        given = self.answer(site, task, params)
        if isinstance(given, str):
            channel.send(SiteFailed(task.task_id, site, given))
        elif given is not None:
            model, meta = given
            size = tensors.size_of(model)
            buffer = self._pool.acquire(size)
            tensors.write(model, buffer.view)
            channel.send(Result(task.task_id, site, task.name, task.round, meta, size), buffer)


def adding(steps):
    """Return an answer: a site adds its step to each parameter, and weighs as much as its number says."""

    def answer(site, _task, params):
        samples = int(site[-1])
        model = {name: (one + np.asarray(steps[site], one.dtype)).astype(one.dtype) for name, one in params.items()}
        return model, {"samples": samples, "metrics": {"accuracy": steps[site] / 10}}

    return answer

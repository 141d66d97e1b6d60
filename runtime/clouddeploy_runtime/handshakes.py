"""What gRPC says of refused TLS handshakes, which it tells nobody but file descriptor 2, as lines of the log.

At a server a peer whose certificate is expired, foreign or missing never gets as far as our code. gRPC has one line for
it (1.85, verbosity INFO), among others for its developers. So that descriptor becomes a pipe: those lines are read from
it, gRPC's errors go to the log, its other lines go nowhere, and whatever else is written there to where it would have.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

VERBOSITY_VARIABLE = "GRPC_VERBOSITY"
PERIOD_S = 10.0
"""A reason is logged once in so long, with how often it came since: a client that is refused tries again for ever."""
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_MAX_REASONS = 100
"""A stranger may make up more."""
_OTHER = "for one of many other reasons"
_LINE_BYTES = 1 << 14
"""A longer line is passed on in parts."""
_OF_GRPC = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+?:\d+)\] (.*)")
"""A line of Abseil's logging: severity, month and day, time, thread, place in the source, and what it says."""
_REFUSED = "Handshake failed with error "
_REASONS = (
    ("certificate has expired", "the other side's certificate has expired"),
    (
        "certificate is not yet valid",
        "the other side's certificate is not valid yet: compare the clocks of both machines",
    ),
    ("certificate revoked", "the other side's certificate was revoked"),
    ("unable to get local issuer", "the other side's certificate is of another project's authority"),
    ("certificate signature failure", "the other side's certificate is of another project's authority"),
    ("self signed certificate", "the other side's certificate is of another project's authority"),
    ("self-signed certificate", "the other side's certificate is of another project's authority"),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "the other side has shown no certificate"),
    ("HTTP_REQUEST", "the other side does not speak TLS"),
    ("WRONG_VERSION_NUMBER", "the other side does not speak TLS"),
    ("UNSUPPORTED_PROTOCOL", "the other side speaks only TLS versions that are not safe any more"),
    ("ALERT_CERTIFICATE_EXPIRED", "the other side says that this server's certificate has expired"),
    ("ALERT_UNKNOWN_CA", "the other side does not know the authority of this server's certificate"),
    ("_ALERT_", "the other side does not accept this server's certificate"),
)
"""What stands in gRPC's line, and what it means; the first that fits counts."""


def reason(text: str) -> str:
    """Say in plain words why a handshake failed; in OpenSSL's own when we do not know them.

    Args:
        text: what gRPC's line says, from its place in the source on.
    """
    for known, plain in _REASONS:
        if known in text:
            return plain
    return text.removeprefix(_REFUSED)


class Refusals:
    """Logs refusals, each reason at most once in `PERIOD_S`.

    Args:
        clock: seconds; only differences count.
        what: became of a connection.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, what: str = "refused in its TLS handshake"
    ) -> None:
        self._clock = clock
        self._what = what
        self._seen: dict[str, tuple[float, int]] = {}

    def add(self, why: str) -> None:
        """Log a refusal, or count it for later."""
        now, why = self._clock(), why if why in self._seen or len(self._seen) < _MAX_REASONS else _OTHER
        since, count = self._seen.get(why, (None, 0))
        if since is None:
            self._seen[why] = (now, 0)
            log.warning("A connection was %s: %s", self._what, why)
        else:
            self._seen[why] = (since, count + 1)

    def flush(self) -> None:
        """Log what was counted, as far as it is time; to be called now and then."""
        now = self._clock()
        for why, (since, count) in list(self._seen.items()):
            if now - since < PERIOD_S:
                continue
            if count:
                log.warning("%d more times within %.0f s a connection was %s: %s", count, now - since, self._what, why)
                self._seen[why] = (now, 0)
            else:
                del self._seen[why]


class Lines:
    """Sorts what was written to the descriptor.

    Args:
        refusals: gets the refused handshakes.
        pass_on: gets what is not gRPC's.
        is_verbose: whether somebody wants to see gRPC's own lines: they are passed on as well.
    """

    def __init__(self, refusals: Refusals, pass_on: Callable[[bytes], object], *, is_verbose: bool = False) -> None:
        self._refusals = refusals
        self._pass_on = pass_on
        self._is_verbose = is_verbose
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take some bytes; a line that is not complete waits for its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        # Nothing of gRPC's begins otherwise: a prompt or a crash must not wait.
        if len(self._rest) > _LINE_BYTES or (self._rest and self._rest[:1] not in b"IWEF"):
            self._pass_on(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Pass on what has no end."""
        self._pass_on(self._rest)
        self._rest = b""

    def _line(self, line: bytes) -> None:
        found = _OF_GRPC.match(line)
        if found is None or self._is_verbose:
            self._pass_on(line)
        if found is None:
            return
        text = found[3].decode(errors="replace")
        if text.startswith(_REFUSED):
            self._refusals.add(reason(text))
        elif found[1] in b"EF":
            log.error("gRPC: %s (%s)", text, found[2].decode(errors="replace"))


def watch() -> None:
    """Put the pipe in place, for as long as the process lives; to be called before grpc is imported, and once.

    Python's own `sys.stderr` goes on to write where it did: what a dying process says must not be in a pipe.
    """
    is_verbose = VERBOSITY_VARIABLE in os.environ
    os.environ.setdefault(VERBOSITY_VARIABLE, "INFO")
    real = os.dup(2)
    sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    reading, writing = os.pipe()
    # A thread of gRPC must never wait for us: what does not fit is lost.
    os.set_blocking(writing, False)
    with contextlib.suppress(OSError):  # more than this account may have
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on(data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(real, data)

    lines = Lines(refusals := Refusals(), pass_on, is_verbose=is_verbose)
    threading.Thread(target=_read, args=(reading, lines, refusals), name="handshakes", daemon=True).start()


def _read(descriptor: int, lines: Lines, refusals: Refusals) -> None:
    while True:
        if select.select([descriptor], [], [], PERIOD_S / 2)[0]:
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                return
            lines.feed(data)
        refusals.flush()

"""A pseudo-terminal with a program in it, and somebody who types and reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

ROWS, COLUMNS = 50, 250
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Moves and colours; what is shown is the text between them."""


def console(kit, *more):
    """Return what opens the console of a kit."""
    return [sys.executable, "-m", "clouddeploy.cli", "console", "--startup-kit", str(kit), *more]


class Terminal:
    """Runs a program at a terminal of its own.

    Args:
        words: the program.
        kind: what the terminal claims to be; `dumb` takes no escapes.
        environment: variables beside those of the tests.
    """

    def __init__(self, words, *, kind="dumb", environment=None):
        self._descriptor, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        modes = termios.tcgetattr(inner)
        # What is typed is shown by the program alone, and waits for it with Ctrl-D and all, however early it comes.
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(inner, termios.TCSANOW, modes)
        variables = {**os.environ, "TERM": kind, "PROMPT_TOOLKIT_NO_CPR": "1", **(environment or {})}
        self._process = subprocess.Popen(
            words, stdin=inner, stdout=inner, stderr=inner, env=variables, start_new_session=True
        )
        os.close(inner)
        self._left = ""

    def send(self, text):
        os.write(self._descriptor, text.encode())

    def read_until(self, text, *, timeout_s=20.0):
        """Return what is shown up to a text, with it."""
        deadline = time.monotonic() + timeout_s
        while text not in self._left:
            assert time.monotonic() < deadline, f"{text!r} is not shown, but {self._left!r}"
            assert self._more(deadline), f"it ended without {text!r}: {self._left!r}"
        shown, found, self._left = self._left.partition(text)
        return (shown + found).replace("\r", "")

    def read_to_the_end(self, *, timeout_s=20.0):
        """Return what is shown until the program has ended, and its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._more(deadline):
            assert time.monotonic() < deadline, f"it has not ended, but shows {self._left!r}"
        return self._left.replace("\r", ""), self._process.wait(timeout_s)

    def _more(self, deadline):
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        read = b""
        if ready:
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                read = os.read(self._descriptor, 1 << 16)
        self._left = _ESCAPE.sub("", self._left + read.decode(errors="replace"))
        return bool(read)

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._descriptor)

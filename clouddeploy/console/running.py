"""Reads lines and does what they say, until `bye`, the end of input, or the first failure of a script."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, ExitCode, SessionExpired, Timeout

from clouddeploy.console import line as lines
from clouddeploy.console.catalogue import OTHER_NAMES
from clouddeploy.console.command import Reply
from clouddeploy.console.errors import CommandsFailed, ConsoleError, SyntaxFault
from clouddeploy.console.keyboard import IdleTooLong

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.console.desk import Desk
    from clouddeploy.console.line import Line

log = logging.getLogger(__name__)

PROMPT = "> "
INTRO = "Type help or ? to list commands."


@dataclass(frozen=True)
class Done:
    """What became of one line."""

    command: str
    seconds: float
    reply: Reply
    """Its `fault` is what failed."""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        fault, reply = self.reply.fault, self.reply
        found: dict[str, Any] = {"command": self.command, "seconds": round(self.seconds, 6)}
        found["status"] = "ok" if fault is None else "error"
        if fault is not None:
            found |= {"error_code": fault.error_code, "message": str(fault), "hint": fault.hint}
        return found | {"data": reply.text if reply.data is None else reply.data}


@dataclass
class Sitting:
    """One person, or one script, at the console.

    Attributes:
        desk: where.
        idle_s: what is said when nobody has typed for so long; the keyboard measures it.
        is_script: whether failures end it, and count in the end.
        keeps_going: not even those of a script.
        shows_tracebacks: of failures.
        now: the time of day.
        done: what was done; of a person, the last line only.
    """

    desk: Desk
    idle_s: float
    is_script: bool = False
    keeps_going: bool = False
    shows_tracebacks: bool = False
    now: Callable[[], datetime] = datetime.now
    done: list[Done] = field(default_factory=list)

    def until_the_end(self) -> ClouddeployError | None:
        """Do one line after the other; return what a script, or the session, failed with.

        Raises:
            KeyboardInterrupt: a script was interrupted.
        """
        while not self.desk.is_over:
            try:
                text = self.desk.keyboard.command(PROMPT)
                fault = self._do(text)
            except EOFError:
                break
            except IdleTooLong:
                return self._leave()
            except KeyboardInterrupt:
                if self.is_script:
                    raise
                continue  # the line was given up
            if isinstance(fault, SessionExpired) or (fault and self.is_script and not self.keeps_going):
                return fault
        failed = [one.reply.fault for one in self.done if one.reply.fault is not None]
        return CommandsFailed(len(failed), failed[0]) if self.is_script and failed else None

    def _leave(self) -> ClouddeployError | None:
        """The session is ended at the server by who made it, at once and not at the end of its own idle time."""
        said = f"Logging out due to inactivity for {self.idle_s:g} seconds"
        self.desk.screen.say(said)
        return Timeout("The script sent no line", why=said, hint="See --idle-timeout.") if self.is_script else None

    def _do(self, text: str) -> ClouddeployError | None:
        """Do what one line says, and say how long it took."""
        begin = time.monotonic()
        try:
            line = lines.parse(text)
            if not line.words:
                return None
            with self.desk.screen.redirected(line):
                reply = self._reply(line)
                if reply.text:
                    self.desk.screen.say(reply.text)
        except ClouddeployError as error:
            self._trace()
            reply = Reply(fault=error)
        except OSError as error:
            self._trace()
            reply = Reply(fault=_of_system(error))
        except Exception as error:
            log.exception("A command has failed by a defect")
            self._trace()
            reply = Reply(fault=_of_defect(error))
        self._end(Done(text.strip(), time.monotonic() - begin, reply))
        return reply.fault

    def _reply(self, line: Line) -> Reply:
        name = OTHER_NAMES.get(line.words[0], line.words[0])
        command = self.desk.commands.get(name)
        if command is None:
            raise SyntaxFault(f"There is no command {name}", hint="`help` lists them.")
        return command.run(self.desk, command.parser().read(line.words[1:]))

    def _end(self, done: Done) -> None:
        if not self.is_script:
            self.done.clear()  # a console may stay open for days
        self.done.append(done)
        if done.reply.fault is not None:
            self.desk.screen.refuse(done.reply.fault)
        if not self.desk.is_over:
            self.desk.screen.say(f"Done [{done.seconds * 1e6:.0f} usecs] {self.now()}")

    def _trace(self) -> None:
        if self.shows_tracebacks:
            self.desk.screen.say(traceback.format_exc())


def _of_system(error: OSError) -> ClouddeployError:
    where = error.filename or "A file"
    return ConsoleError(f"{where} cannot be used", why=error.strerror or str(error), hint="Look at its folder.")


def _of_defect(error: Exception) -> ClouddeployError:
    fault = ConsoleError(
        "This is a defect of the console", why=f"{type(error).__name__}: {error}", hint="Try with --with_debug."
    )
    fault.exit_code, fault.error_code = ExitCode.INTERNAL, "INTERNAL_ERROR"
    return fault

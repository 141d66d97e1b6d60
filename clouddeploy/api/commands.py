"""Commands of the admin console as calls of a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import InvalidArgumentError, made

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.console.desk import Desk


class CommandCalls(Connection):
    """How a session does what stands in a line of the console."""

    def do_command(self, command: str, props: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Do what a line of the admin console says; see docs/console.md for the commands.

        What the console would ask before is answered with yes: that the script has the line is the confirmation.

        Args:
            command: the line, such as `list_jobs -n hello`; `> file` writes the answer to a file.
            props: none may be given; the reference has it.

        Returns:
            `status`: `ok`; `text`: what the console would show, `data`: the same for programs.

        Raises:
            InvalidArgumentError: there is no such command, or it takes other arguments.
            ApiError: what the command failed with, as the call of the same name.
        """
        from clouddeploy.console import line as lines  # noqa: PLC0415 - a whole console, for this one call
        from clouddeploy.console.catalogue import OTHER_NAMES  # noqa: PLC0415 - as above

        if props:
            raise InvalidArgumentError("props cannot be given", why="a command is its line", hint="Write it there.")
        with self._calling():
            try:
                desk, line = self._desk(), lines.parse(command)
                name = OTHER_NAMES.get(line.words[0], line.words[0]) if line.words else ""
                if name not in desk.commands:
                    raise InvalidArgumentError(f"There is no command {name!r}", hint="`help` lists them.")
                found = desk.commands[name]
                with desk.screen.redirected(line):
                    reply = found.run(desk, found.parser().read(line.words[1:]))
                    desk.screen.say(reply.text)
            except InvalidArgumentError:
                raise
            except ClouddeployError as exc:
                raise made(exc.error_code, exc.what, why=exc.why, hint=exc.hint) from exc
        if desk.is_over:
            self.close()
        if reply.fault is not None:
            raise made(reply.fault.error_code, reply.fault.what, why=reply.fault.why, hint=reply.fault.hint)
        return {"status": "ok", "text": reply.text, "data": reply.data}

    def _desk(self) -> Desk:
        from clouddeploy.console.catalogue import COMMANDS  # noqa: PLC0415 - as above
        from clouddeploy.console.desk import Desk  # noqa: PLC0415 - as above
        from clouddeploy.console.screen import Screen  # noqa: PLC0415 - as above

        with self._calling() as admin:
            return Desk(
                session=admin,
                kit=self.kit,
                screen=Screen(None),
                keyboard=_Agreeing(self.username),
                commands=COMMANDS,
            )


class _Agreeing:
    """Stands in for who types: says yes, and names the user where that is asked for."""

    def __init__(self, user: str) -> None:
        self._user = user

    def answer(self, prompt: str) -> str:
        """Return what confirms."""
        return self._user if "user name" in prompt else "y"

    def command(self, prompt: str) -> str:  # noqa: ARG002 - as `Keyboard` has it
        """Tell that there are no more lines.

        Raises:
            EOFError: always.
        """
        raise EOFError

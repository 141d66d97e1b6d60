"""Opens the console: who is it, is it the person of the kit, connect, work, log out."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import RuntimeFault

from clouddeploy.console.catalogue import COMMANDS
from clouddeploy.console.errors import UserRefused
from clouddeploy.console.keyboard import IdleTooLong, Pipe
from clouddeploy.console.running import INTRO, Done, Sitting
from clouddeploy.console.screen import Screen
from clouddeploy.console.suggestions import Suggestions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clouddeploy_runtime.errors import ClouddeployError
    from clouddeploy_runtime.kit import Kit

    from clouddeploy.console.keyboard import Keyboard


@dataclass(frozen=True)
class Options:
    """How the console is wanted."""

    user: str = ""
    """The name in the certificate; empty: asked for."""
    study: str = "default"
    history_size: int = 1000
    """Lines that the history keeps."""
    idle_s: float = 900.0
    """Without input for so long the session is ended; the reference's value."""
    timeout_s: float = 10.0
    """So long connecting and each command may take."""
    is_terminal: bool = True
    """Whether a person types."""
    is_shown: bool = True
    """Whether replies are written as they come: not when a script wants JSON."""
    keeps_going: bool = False
    """Whether a script goes on after a failure."""
    shows_tracebacks: bool = False


@dataclass(frozen=True)
class Closed:
    """How it went."""

    done: Sequence[Done]
    fault: ClouddeployError | None = None
    """What a script, or the session, failed with; it was shown already unless there were several."""


def sit_down(kit: Kit, options: Options) -> Closed:
    """Hold one session at the console, from the user name to the logout.

    Args:
        kit: an admin's, verified.
        options: how.

    Raises:
        UserRefused: who types gives another name than the certificate's.
        ConnectionFailed, AuthenticationRefused: there is no session.
    """
    suggestions = Suggestions(COMMANDS)
    shown = sys.stdout if options.is_shown else None
    errors = None if options.is_terminal else sys.stderr
    screen = Screen(shown, errors=errors if options.is_shown else None)
    with _keyboard(kit, options, suggestions) as keyboard:
        _require_user(kit, options, keyboard)
        return _work(kit, options, keyboard=keyboard, screen=screen, suggestions=suggestions)


def _work(kit: Kit, options: Options, *, keyboard: Keyboard, screen: Screen, suggestions: Suggestions) -> Closed:
    # gRPC takes as long to import as all else here together: who is asked for a name need not wait for it.
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415

    from clouddeploy.console.desk import Desk  # noqa: PLC0415 - with it

    with AdminSession(kit, timeout_s=options.timeout_s, study=options.study) as session:
        desk = Desk(session=session, kit=kit, screen=screen, keyboard=keyboard, commands=COMMANDS)
        suggestions.desk = desk
        sitting = Sitting(
            desk,
            idle_s=options.idle_s,
            is_script=not options.is_terminal,
            keeps_going=options.keeps_going,
            shows_tracebacks=options.shows_tracebacks,
        )
        if options.is_terminal:
            screen.say(f"Connected to {kit.server_name} as {kit.name}, study {options.study}.\n{INTRO}")
        fault = sitting.until_the_end()
        with contextlib.suppress(RuntimeFault):  # the server was shut down, perhaps from here
            session.logout()
    return Closed(tuple(sitting.done), fault)


def _require_user(kit: Kit, options: Options, keyboard: Keyboard) -> None:
    name = options.user
    if not name:
        try:
            name = keyboard.answer("User Name: ").strip()
        except (EOFError, KeyboardInterrupt, IdleTooLong) as exc:
            raise UserRefused(
                "No user name was given", hint="Type the name in your certificate, or pass --user."
            ) from exc
    if name != kit.name:
        raise UserRefused(
            f"{name or 'An empty name'} cannot log in with this kit",
            why="its certificate is another person's",
            hint="Use your own kit, and the name that it was made for.",
        )


@contextlib.contextmanager
def _keyboard(kit: Kit, options: Options, suggestions: Suggestions) -> Iterator[Keyboard]:
    if not options.is_terminal:
        yield Pipe(sys.stdin.fileno(), idle_s=options.idle_s)
        return
    # A script does without prompt_toolkit, which is slow to import.
    from clouddeploy.console.history import NAME, BoundedHistory  # noqa: PLC0415
    from clouddeploy.console.prompting import Terminal  # noqa: PLC0415

    history = BoundedHistory(kit.root / NAME, size=options.history_size)
    terminal = Terminal(history, suggestions.after, idle_s=options.idle_s)
    try:
        yield terminal
    finally:
        terminal.close()

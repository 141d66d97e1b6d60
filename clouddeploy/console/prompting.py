"""Typing at a terminal: line editing, completion, history, and the end of a session that nobody uses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import DummyHistory

from clouddeploy.console.keyboard import IdleTooLong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History


class Terminal:
    """A person at a terminal; see `Keyboard` for what is raised.

    Args:
        history: of command lines; answers to questions are not kept.
        suggestions: what may stand next, of the words before it and the begin of a word.
        idle_s: how long nobody may type.
    """

    def __init__(
        self, history: History, suggestions: Callable[[Sequence[str]], Iterable[str]], *, idle_s: float
    ) -> None:
        # Completion asks the server, so only Tab starts it, and not each letter.
        self._commands: PromptSession[str] = PromptSession(
            history=history,
            completer=_Completer(suggestions),
            complete_while_typing=False,
            complete_in_thread=True,
            enable_history_search=True,
        )
        self._answers: PromptSession[str] = PromptSession(history=DummyHistory())
        self._idle_s = idle_s
        self._last_input = 0.0
        for session in (self._commands, self._answers):
            session.default_buffer.on_text_changed += self._touch
            session.default_buffer.on_cursor_position_changed += self._touch
        self._loop = asyncio.Runner()

    def command(self, prompt: str) -> str:
        """Return the next command line."""
        return self._loop.run(self._ask(self._commands, prompt))

    def answer(self, prompt: str) -> str:
        """Return the answer to a question."""
        return self._loop.run(self._ask(self._answers, prompt))

    def close(self) -> None:
        """Give up what the prompts hold."""
        self._loop.close()

    def _touch(self, _buffer: object) -> None:
        self._last_input = time.monotonic()

    async def _ask(self, session: PromptSession[str], prompt: str) -> str:
        self._last_input = time.monotonic()
        asking = asyncio.ensure_future(session.prompt_async(prompt))
        try:
            while (left := self._last_input + self._idle_s - time.monotonic()) > 0:
                await asyncio.wait({asking}, timeout=left)
                if asking.done():
                    return asking.result()
            raise IdleTooLong
        finally:
            if not asking.done():  # it would read what is typed at the next prompt: also after a Ctrl-C before raw mode
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking


class _Completer(Completer):
    def __init__(self, suggestions: Callable[[Sequence[str]], Iterable[str]]) -> None:
        self._suggestions = suggestions

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        text = document.text_before_cursor
        words = text.split()
        begin = "" if not words or text[-1].isspace() else words.pop()
        for one in self._suggestions(words):
            if one.startswith(begin):
                yield Completion(f"{one} ", start_position=-len(begin), display=one)

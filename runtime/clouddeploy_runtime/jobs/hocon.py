"""The part of HOCON that job folders are written in, read into what JSON can say.

Comments, keys without quotes, `=` or `:` or nothing before `{`, missing and trailing commas, paths (`args.model = x`),
repeated objects that add up, texts in one or three pairs of quotes, and words without quotes. What needs more than the
file itself (`include`, `${…}`, `+=`) is refused with its line.

Source:
    https://github.com/lightbend/config/blob/main/HOCON.md
"""

from __future__ import annotations

import json
import re
from typing import Any

_MAX_DEPTH = 64
_SPACE = re.compile(r"(?:[ \t\r\f\v\ufeff\u00a0]|#[^\n]*|//[^\n]*)+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LONG = re.compile(r'"""(.*?"*)"""(?!")', re.DOTALL)
_BARE = re.compile(r"(?:(?!//)[^$\"{}\[\]:=,+#`^?!@*&\\\s])+")
"""A word without quotes; the signs are those that the specification keeps (“Unquoted strings”)."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_REFUSED = {
    "$": "${…}, a value from elsewhere",
    "+": "+=, which adds to a value from elsewhere",
}


class NotHocon(ValueError):
    """The text is no HOCON, or more of it than this reads; the message names the line."""


def parse(text: str) -> Any:
    """Read a document.

    Raises:
        NotHocon: names the line and what is wrong there.
    """
    return _Parser(text).document()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> Any:
        self._skip()
        first = self._peek()
        if first == "[":
            value: Any = self._array(1)
        elif first == "{":
            value = self._object(1)
        else:
            value = self._members("", 0)
        self._skip()
        if self._peek():
            raise self._wrong(f"{self._peek()!r} after the end")
        return value

    def _wrong(self, why: str) -> NotHocon:
        line = self._text.count("\n", 0, self._at) + 1
        return NotHocon(f"line {line}: {why}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _blank(self) -> str:
        """Skip spaces and comments within a line; returns what stood there."""
        found = self._match(_SPACE)
        return found[0] if found else ""

    def _skip(self) -> bool:
        """Skip to the next sign, over lines; returns whether a line ended."""
        has_ended = False
        while True:
            self._blank()
            if self._peek() != "\n":
                return has_ended
            has_ended = True
            self._at += 1

    def _object(self, depth: int) -> dict[str, Any]:
        self._at += 1
        found = self._members("}", depth)
        self._at += 1
        return found

    def _members(self, end: str, depth: int) -> dict[str, Any]:
        """Read keys and values up to `end`, which is left; an empty `end` is that of the text."""
        found: dict[str, Any] = {}
        self._skip()
        while self._peek() != end:
            path = self._path()
            self._blank()
            sign = self._peek()
            if sign == "+":
                raise self._wrong(_REFUSED[sign])
            if sign in {"=", ":"}:
                self._at += 1
                self._skip()
            elif self._skip_to_object() != "{":
                raise self._wrong(f"{'.'.join(path)} has no value; '=' or ':' stands between")
            _put(found, path, self._value(depth + 1))
            self._separate(end)
        return found

    def _skip_to_object(self) -> str:
        self._skip()
        return self._peek()

    def _separate(self, end: str) -> None:
        has_ended = self._skip()
        if self._peek() == ",":
            self._at += 1
            self._skip()
        elif not has_ended and self._peek() != end:
            shown = self._peek()
            raise self._wrong(f"{shown!r} where a comma or a new line stands" if shown else "the text ends early")

    def _path(self) -> list[str]:
        parts: list[str] = [""]
        start = self._at
        while True:
            if quoted := self._match(_QUOTED):
                parts[-1] += self._unquoted(quoted[0])
            elif bare := self._match(_BARE):
                first, *rest = bare[0].split(".")
                parts[-1] += first
                parts += rest
            else:
                break
        if self._at == start:
            shown = self._peek()
            raise self._wrong(_REFUSED.get(shown, f"{shown!r} where a key stands") if shown else "the text ends early")
        if parts == ["include"]:
            raise self._wrong("include, which reads another file")
        if not all(parts):
            raise self._wrong("a key with an empty part")
        if len(parts) > _MAX_DEPTH:
            raise self._wrong(f"more than {_MAX_DEPTH} levels")
        return parts

    def _array(self, depth: int) -> list[Any]:
        self._at += 1
        found: list[Any] = []
        self._skip()
        while self._peek() != "]":
            found.append(self._value(depth + 1))
            self._separate("]")
        self._at += 1
        return found

    def _value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._wrong(f"more than {_MAX_DEPTH} levels")
        first = self._peek()
        if first == "{":
            value: Any = self._object(depth)
        elif first == "[":
            value = self._array(depth)
        else:
            return self._words()
        self._blank()
        if self._peek() in {"{", "["}:
            raise self._wrong("two values side by side, which HOCON joins and this reader does not")
        return value

    def _words(self) -> Any:
        """Read texts and words up to the end of the value; alone a word may be a number, true, false or null."""
        pieces: list[str] = []
        is_bare = True
        space = ""
        while True:
            if long := self._match(_LONG):
                piece, is_bare = long[1], False
            elif quoted := self._match(_QUOTED):
                piece, is_bare = self._unquoted(quoted[0]), False
            elif bare := self._match(_BARE):
                piece = bare[0]
            else:
                break
            pieces += [space, piece] if pieces else [piece]
            space = self._blank()
        shown = self._peek()
        if shown and shown not in ",\n}]":
            raise self._wrong(_REFUSED.get(shown, f"{shown!r} in a value; put the text into quotes"))
        if not pieces:
            raise self._wrong("a value is missing")
        text = "".join(pieces)
        return _meant(text) if is_bare and len(pieces) == 1 else text

    def _unquoted(self, quoted: str) -> str:
        try:
            text: str = json.loads(quoted)
        except ValueError as exc:
            raise self._wrong(f"{quoted} is no text: {exc}") from exc
        return text


def _meant(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    match = _NUMBER.fullmatch(word)
    if match is None:
        return word
    return float(word) if match[1] or match[2] else int(word)


def _put(holder: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = holder.get(part)
        if not isinstance(inner, dict):
            inner = holder[part] = {}
        holder = inner
    before = holder.get(path[-1])
    if isinstance(before, dict) and isinstance(value, dict):
        for key, one in value.items():
            _put(before, [key], one)
    else:
        holder[path[-1]] = value

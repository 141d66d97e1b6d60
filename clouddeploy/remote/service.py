"""Gives a folder with a service what our machines start, stop and ask; the service itself runs under that."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FOLDER = "service"
"""Where the service is in the folder, unchanged."""
SCRIPTS = ("start.sh", "sub_start.sh")


def supervise(folder: Path, *, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
    """Makes a folder that holds the service like a kit of ours, with `startup/start.sh`.

    What is run travels in files whose words end with a NUL, so no shell ever reads it as anything but words.

    Args:
        folder: holds the service in `FOLDER`.
        command: what is run in there; a first word `python` becomes the site's own interpreter.
        environment: what it gets besides; no name has an equals sign, and nothing a NUL.
        port: it serves while it listens on this.
    """
    startup = folder / "startup"
    startup.mkdir()
    startup.chmod(0o755)  # whoever packs it with whatever umask, it is the same release
    for name in SCRIPTS:
        script = startup / name
        script.write_bytes(resources.files("clouddeploy.remote").joinpath("service_kit", name).read_bytes())
        script.chmod(0o755)
    texts = {
        "command": _words(command),
        "environment": _words(f"{name}={value}" for name, value in sorted(environment.items())),
        "port": f"{port}\n".encode(),
    }
    for name, text in texts.items():
        (startup / name).write_bytes(text)
        (startup / name).chmod(0o600)


def _words(words: Iterable[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)

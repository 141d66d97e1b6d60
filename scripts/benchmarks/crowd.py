"""Many clients in one process: `crowd.py KITS.json FOLDER`; each connects and beats as a site's agent does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path


async def crowd(folders: list[str], workspace: Path) -> None:
    """Keep all of them connected for ever."""
    from clouddeploy_runtime import kit as kits  # noqa: PLC0415 - gRPC reads its environment when it is imported
    from clouddeploy_runtime.client.connection import Connection  # noqa: PLC0415
    from clouddeploy_runtime.client.transfer import Transfer  # noqa: PLC0415

    def client(folder: str) -> Connection:
        kit = kits.load(Path(folder))
        own = workspace / kit.name
        own.mkdir(parents=True)
        return Connection(kit, own, transfer=Transfer(), active_jobs=tuple, handle=lambda _: None)

    await asyncio.gather(*(client(folder).run() for folder in folders))


def main() -> None:
    """Run until ended."""
    logging.disable(logging.CRITICAL)  # a thousand sites say that their server is away
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    file, workspace = sys.argv[1:]
    asyncio.run(crowd(json.loads(Path(file).read_text()), Path(workspace)))


if __name__ == "__main__":
    main()

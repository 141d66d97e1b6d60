"""Kits in containers: `startup/docker.sh` for one kit, `compose.yaml` for all of them on one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from clouddeploy_runtime.kit import Kind

from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_provision.kit_tree import SCRIPT
from clouddeploy_provision.spec import Builder

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from clouddeploy_provision.project import Project
    from clouddeploy_provision.spec import Context

_FOLDER = "clouddeploy_compose"
_IMAGE = "clouddeploy-site:latest"
_BASE_IMAGE = "python:3.12-slim"


class ImageScriptBuilder(Builder):
    """Adds `startup/docker.sh` when the project names an image.

    Args:
        docker_image: the image; empty: no script.
        _settings: the further arguments of the reference's StaticFileBuilder; the kits have what they say already.
    """

    def __init__(self, docker_image: str = "", **_settings: Any) -> None:
        self._image = docker_image

    def build(self, project: Project, ctx: Context) -> None:
        """Add the script to the kits of server and clients."""
        if not self._image:
            return
        for one in project.participants:
            if one.kind is Kind.ADMIN:
                continue
            port = str(one.port) if one.kind is Kind.SERVER else ""
            text = packaged("docker.sh").decode()
            for placeholder, value in (("@image@", self._image), ("@port@", port), ("@kind@", one.kind.value)):
                text = text.replace(placeholder, value)
            ctx.add_file(one, "startup/docker.sh", text.encode(), SCRIPT)


def _called(*names: str) -> dict[str, Any]:
    """Let the other containers find this one under some names."""
    return {"networks": {"default": {"aliases": list(dict.fromkeys(names))}}}


class DockerBuilder(Builder):
    """Adds `compose.yaml`, `.env` and the recipe of an image beside the kits.

    Args:
        base_image: what the image starts from; it must have Python 3.11 or newer.
        requirements_file: further packages of the image, in the custom folder; empty: none.
    """

    def __init__(self, base_image: str = _BASE_IMAGE, requirements_file: str = "") -> None:
        self._base_image = base_image
        self._requirements_file = requirements_file

    def build(self, project: Project, ctx: Context) -> None:
        """Write the files."""
        services = {}
        for one in project.participants:
            if one.kind is Kind.ADMIN:
                continue
            service: dict[str, Any] = {
                "image": "${IMAGE_NAME}",
                "build": _FOLDER,
                "command": [f"/kit/{one.name}/startup/start.sh", "--foreground"],
                "volumes": [f"./{one.name}:/kit/{one.name}"],
                "init": True,
            }
            if one.kind is Kind.SERVER:
                service["ports"] = [f"{one.port}:{one.port}"]
                service |= _called(one.name, one.host)
            else:
                service["depends_on"] = [one.relay or project.server.name]
            if one.kind is Kind.RELAY and one.listening is not None:
                service |= _called(one.name, one.listening.host)
            services[one.name] = service
        compose = yaml.safe_dump({"services": services}, sort_keys=False)
        ctx.add_result_file("compose.yaml", compose.encode())
        ctx.add_result_file(".env", f"IMAGE_NAME={_IMAGE}\n".encode())
        recipe = packaged("Dockerfile").decode().replace("@base_image@", self._base_image)
        ctx.add_result_file(f"{_FOLDER}/Dockerfile", recipe.encode())
        ctx.add_result_file(f"{_FOLDER}/requirements.txt", self._requirements(ctx.custom_folder))

    def _requirements(self, folder: Path | None) -> bytes:
        if not self._requirements_file:
            return b""
        if folder is None:
            raise BuilderFailed(
                "requirements_file cannot be read", why="no custom folder was given", hint="name its folder with -c"
            )
        try:
            return (folder / self._requirements_file).read_bytes()
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise BuilderFailed(f"{folder / self._requirements_file} cannot be read", why=why) from exc

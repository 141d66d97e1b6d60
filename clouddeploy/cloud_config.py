"""The reference's cloud configuration, KEY=VALUE lines of a shell: parsed, and never run."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AWS, AZURE = "aws", "azure"
SETTINGS: Mapping[str, Mapping[str, str]] = {
    AWS: {
        "AMI_IMAGE": "image",
        "EC2_TYPE": "size",
        "REGION": "region",
        "VPC_ID": "vpc_id",
        "SUBNET_ID": "subnet_id",
    },
    AZURE: {
        "VM_IMAGE": "image",
        "VM_SIZE": "size",
        "LOCATION": "location",
        "SUBSCRIPTION_ID": "subscription_id",
        "RESOURCE_GROUP": "resource_group",
    },
}
"""By cloud: the file's key → the key of a site in a deploy file."""
INSTEAD: Mapping[str, str] = {
    "KEY_PAIR": "each deployment makes an SSH key of its own",
    "SECURITY_GROUP": "each site gets a firewall of its own",
    "NSG_NAME": "each site gets a firewall of its own",
    "PASSWORD": "machines take keys only, no passwords",
    "ADMIN_USERNAME": "the account is the one that `user` of the deploy file names",
    "VM_NAME": "names come from the project and the site, with a tag",
    "DEST_FOLDER": "a site has its folder below /opt/clouddeploy",
    "AMI_NAME": "without AMI_IMAGE the newest Ubuntu 24.04 is taken, and then pinned",
    "ARCH": "it follows from the size",
    "DOCKER_OPTION": "a site in a container (--image REGISTRY/NAME:TAG, or `container`) gets options of ours",
    "FL_PORT": "the port is the kit's",
    "ADMIN_PORT": "the port is the kit's",
}
"""Keys of the reference that decide nothing here, and what happens instead."""
GPU = re.compile(r"GPU_[A-Z0-9_]+")
INSTEAD_OF_GPU = "GPUs are what the kit's local/resources.json asks for, or what the size has"
OWN_IMAGE: Mapping[str, re.Pattern[str]] = {
    AWS: re.compile(r"ami-[0-9a-f]+"),
    AZURE: re.compile(r"/.+|[^:/@]+(:[^:/@]+){3}"),
}
"""By cloud: how the ids of its own images look; no container image is written like that."""
ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
COMMANDS = "$`;|&()<>"
"""What a shell would act on outside quotes."""
IN_DOUBLE_QUOTES = "$`"
"""What it would act on inside double quotes; a backslash is refused besides, since it changes what follows."""


@dataclass(frozen=True)
class CloudConfig:
    """What such a file asks for.

    Attributes:
        settings: by the key of a site in a deploy file.
        warnings: keys without a meaning here, and what happens instead.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def key_of_image(cloud: str, given: str) -> str:
    """Returns which key of a site an image is for: `image`, from which the machine is made, or `container`.

    The reference's `--image` names a container image, and the clouds' own tools name theirs so.
    """
    return "image" if OWN_IMAGE[cloud].fullmatch(given) else "container"


def read(file: Path, *, cloud: str) -> CloudConfig:
    """Reads a cloud configuration.

    Args:
        file: lines `KEY=VALUE`, with comments, `export` and quotes as a shell has them.
        cloud: `aws` or `azure`: whose keys are meant.

    Raises:
        ConfigError: it cannot be read, has something that a shell would run, or a key that nobody knows.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read", why=str(error), hint="name a file of KEY=VALUE lines with --config"
        ) from error
    settings: dict[str, str] = {}
    warnings: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, value = _assignment(stripped, place := f"{file}:{number}")
        known = SETTINGS[cloud].get(key)
        instead = INSTEAD.get(key) or (INSTEAD_OF_GPU if GPU.fullmatch(key) else "")
        if known and value:
            settings[known] = value
        elif instead:
            warnings.append(f"{place}: {key} decides nothing here: {instead}")
        elif not known:
            raise _unknown(key, place, cloud)
    return CloudConfig(settings, tuple(warnings))


def _unknown(key: str, place: str, cloud: str) -> ConfigError:
    known = [*SETTINGS[cloud], *INSTEAD]
    other = next((name for name, keys in SETTINGS.items() if name != cloud and key in keys), "")
    near = difflib.get_close_matches(key.upper(), known, n=1)
    why = f"it is a key of {other}, and the cloud is {cloud}" if other else "nothing has this name"
    hint = f"did you mean {near[0]}?" if near and not other else f"the keys are {', '.join(SETTINGS[cloud])}"
    return ConfigError(f"{place}: unknown key {key}", why=why, hint=hint)


def _assignment(line: str, place: str) -> tuple[str, str]:
    match = ASSIGNMENT.fullmatch(line)
    if match is None:
        raise ConfigError(
            f"{place}: this is not KEY=VALUE",
            why="such a file is read and never run, so it holds assignments alone",
            hint="example: REGION=us-west-2",
        )
    return match[1], _value(match[2], place)


def _value(text: str, place: str) -> str:
    """Returns what a shell would assign, as long as it would run nothing for it."""
    value, at = [], 0
    while at < len(text):
        char = text[at]
        if char in "'\"":
            end = text.find(char, at + 1)
            if end < 0:
                raise ConfigError(f"{place}: a quote is not closed", why=f"{char} opens it", hint="close it")
            inside = text[at + 1 : end]
            found = next((one for one in inside if one in IN_DOUBLE_QUOTES + "\\"), "") if char == '"' else ""
            if found:
                raise _refused(found, place)
            value.append(inside)
            at = end + 1
        elif char in " \t":
            rest = text[at:].strip()
            if rest and not rest.startswith("#"):
                raise ConfigError(
                    f"{place}: something follows the value",
                    why="it would be a command of its own",
                    hint="put a value with blanks into quotes",
                )
            break
        elif char in COMMANDS + "\\":
            raise _refused(char, place)
        else:
            value.append(char)
            at += 1
    return "".join(value)


def _refused(char: str, place: str) -> ConfigError:
    return ConfigError(
        f"{place}: {char} is not allowed here",
        why="a shell would act on it, and this file is read and never run",
        hint="write the value itself, in single quotes if it has such a character",
    )

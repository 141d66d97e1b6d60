"""Reads who asks for a certificate: a project file with one participant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from clouddeploy_runtime.enrolment import formats, request

from clouddeploy_provision import yaml_source
from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOT_ASKED = {
    "listening_host": "is decided by the project; leave it out",
    "connect_to": "is decided by the project; leave it out",
    "fed_learn_port": "is decided by the project; leave it out",
    "admin_port": "is decided by the project; leave it out",
    "server": "is decided by the project; leave it out",
    "builders": "are not applied to a kit that the project signs; leave them out",
}


def read(path: Path) -> formats.Site:
    """Read the file.

    Raises:
        ProjectFileError: it does not describe one participant.
        EnrolmentFault: SITE_FILE, the participant cannot be asked for.
    """
    source = yaml_source.parse(path)
    problems = list(source.problems)
    data: Any = source.data
    participants = data.get("participants") if isinstance(data, dict) else None
    one = participants[0] if isinstance(participants, list) and participants else None
    if not isinstance(one, dict) or not isinstance(participants, list) or len(participants) != 1:
        example = "{name: my_project, participants: [{name: site-1, type: client, org: hospital_a}]}"
        rule = "must have a name and exactly one participant"
        raise ProjectFileError(source.name, [*problems, Problem(source.name, 1, "participants", "", rule, example)])
    problems += _refused(source, data, ())
    problems += _refused(source, one, ("participants", 0))
    site = None
    try:
        wanted = {key: value for key, value in one.items() if key not in _NOT_ASKED}
        if isinstance(wanted.get("host_names"), str):
            wanted["host_names"] = [wanted["host_names"]]
        site = msgspec.convert({"project": data.get("name"), **wanted}, formats.Site)
    except msgspec.MsgspecError as exc:
        file, line = source.place(("participants", 0))
        problems.append(Problem(file, line, "participants[0]", str(one.get("name", "")), str(exc)))
    if problems or site is None:
        raise ProjectFileError(source.name, problems)
    request.check(site)
    return site


def _refused(source: yaml_source.Source, data: dict[str, Any], key: yaml_source.Key) -> Iterator[Problem]:
    """Say which keys a request cannot have."""
    for name, rule in _NOT_ASKED.items():
        if name in data:
            file, line = source.place((*key, name))
            yield Problem(file, line, name, "", rule)

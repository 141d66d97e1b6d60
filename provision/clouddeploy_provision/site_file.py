"""Reads who asks for a certificate: a project file with one participant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_runtime.enrolment import formats, request

from clouddeploy_provision import yaml_source
from clouddeploy_provision.errors import Problem, ProjectFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 64 << 10
"""A site needs a few hundred; YAML is slow to parse, and this may come from anybody."""
_DECIDED = "is decided by the project; leave it out"
_NOT_ASKED = {
    "listening_host": _DECIDED,
    "connect_to": _DECIDED,
    "fed_learn_port": _DECIDED,
    "admin_port": _DECIDED,
    "server": _DECIDED,
    "builders": "are not applied to a kit that the project signs; leave them out",
}
_TOP = {"api_version", "name", "description", "participants"}
_EXAMPLE = "{name: my_project, participants: [{name: site-1, type: client, org: hospital_a}]}"


def read(path: Path) -> formats.Site:
    """Read the file.

    Raises:
        ProjectFileError: it does not describe one participant.
        EnrolmentFault: SITE_FILE, the participant cannot be asked for.
    """
    source = yaml_source.parse(path)
    data: Any = source.data
    one = _participant(data)
    if one is None:
        rule = "must have a name and exactly one participant"
        problem = Problem(source.name, 1, "participants", "", rule, _EXAMPLE)
        raise ProjectFileError(source.name, [*source.problems, problem])
    problems = [*source.problems, *_refused(source, data, ()), *_refused(source, one, ("participants", 0))]
    problems += [
        Problem(*source.place((key,)), key, rule="is not known in a request", example=_EXAMPLE)
        for key in set(data) - _TOP - set(_NOT_ASKED)
    ]
    site = None
    try:
        site = _site(data.get("name"), {key: value for key, value in one.items() if key not in _NOT_ASKED})
    except ValueError as exc:
        problems.append(Problem(*source.place(("participants", 0)), "participants[0]", rule=str(exc), example=_EXAMPLE))
    if problems or site is None:
        raise ProjectFileError(source.name, problems)
    request.check(site)
    return site


def parse(data: bytes) -> formats.Site:
    """Read `site.yaml` of a request.

    Raises:
        ValueError: it does not describe one participant; says why.
    """
    document = plain(data)
    one = _participant(document)
    if one is None or set(document) != {"name", "participants"}:
        raise ValueError("must have a name and exactly one participant, nothing else")
    return _site(document["name"], one)


def plain(data: bytes) -> Any:
    """Parse YAML that may come from anybody.

    Raises:
        ValueError: it is none.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES >> 10} KiB")
    try:
        # Not libyaml's loader: that one does not stop at endless nesting.
        return yaml.safe_load(data)
    # The library leaves what a value's own type has to say about it as it is: `!!bool maybe` is a KeyError.
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, LookupError) as exc:
        raise ValueError(f"is not YAML: {exc}") from exc


def _participant(document: Any) -> dict[str, Any] | None:
    """Return the one participant; None when there is not exactly one."""
    participants = document.get("participants") if isinstance(document, dict) else None
    if not isinstance(participants, list) or len(participants) != 1 or not isinstance(participants[0], dict):
        return None
    return participants[0]


def _site(project: Any, participant: dict[str, Any]) -> formats.Site:
    if not isinstance(project, str):
        raise ValueError("must have the project's name as `name`")  # noqa: TRY004 - the caller knows one error
    if "project" in participant:
        raise ValueError("has the key `project` in its participant; the project's name is `name` above")
    hosts = participant.get("host_names")
    given = {**participant, "host_names": [hosts]} if isinstance(hosts, str) else participant
    return formats.convert({**given, "project": project}, formats.Site)


def _refused(source: yaml_source.Source, data: dict[str, Any], key: yaml_source.Key) -> Iterator[Problem]:
    """Say which keys a request cannot have."""
    for name, rule in _NOT_ASKED.items():
        if name in data:
            yield Problem(*source.place((*key, name)), name, rule=rule)

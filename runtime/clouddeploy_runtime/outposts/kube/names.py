"""Names and labels of objects of a cluster, made of names that people have given; the operator's side needs the same.

A name that fits stays as it is. Any other one gets eight digits of its hash, so that two names never become one.
"""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 63
"""Of a service, and of a label's value (RFC 1035 §2.3.4); pods are kept to it, since it is their host's name."""
MAX_RELEASE = 53
"""Of a release of Helm, which appends to it."""
PART_OF = "clouddeploy"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
PROJECT = "clouddeploy/project"
SITE = "clouddeploy/site"
JOB = "clouddeploy/job"
ROLE = "clouddeploy/role"
PARENT_COMPONENT, JOB_COMPONENT = "parent", "job"
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_DIGITS = 8


def named(text: str, limit: int = MAX_NAME) -> str:
    """Return a DNS-1035 label for a name: letters, digits and dashes, at most `limit` of them."""
    if len(text) <= limit and _NAME.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: limit - _DIGITS - 1].rstrip("-")
    if not plain[:1].isalpha():
        plain = f"n-{plain}"[: limit - _DIGITS - 1].rstrip("-")
    return f"{plain}-{digest}"


def owner(project: str, site: str) -> dict[str, str]:
    """Return the labels by which a site knows what is its own in a namespace of many."""
    return {PROJECT: named(project), SITE: named(site)}


def selector(labels: dict[str, str]) -> str:
    """Return what the API takes to find all that has these labels."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

"""What the subscription answers about itself: permissions, registrations, SKUs, usages, images, names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal.azure import catalog
from clouddeploy_rehearsal.azure.store import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_rehearsal.azure.account import Account
    from clouddeploy_rehearsal.azure.store import Store

VERSIONS = ("24.04.202608150", "24.04.202609010")
OFFERS = {"ubuntu-24_04-lts": {"server": ("V2", "x64"), "server-arm64": ("V2", "Arm64"), "server-gen1": ("V1", "x64")}}
"""By offer and SKU, generation and architecture."""
TAG = re.compile(r"tagname eq '([^']*)'(?: and tagvalue eq '([^']*)')?$", re.IGNORECASE)


def answer(path: str, query: Mapping[str, str], *, account: Account, store: Store) -> Any | None:
    """Returns the body that answers a GET below the subscription; None: the path is not one of these."""
    for pattern, question in QUESTIONS:
        match = pattern.fullmatch(path)
        if match is not None:
            return question(match.groupdict(), query, account, store)
    return None


def has_tag(resource: Mapping[str, Any], wanted: str) -> bool:
    """Returns whether a resource passes a filter by tag; an empty one lets everything pass."""
    if not wanted:
        return True
    match = TAG.match(wanted)
    if match is None:
        raise Refused(400, "InvalidFilterInQueryString", f"Invalid $filter '{wanted}' specified in the query string.")
    value = (resource.get("tags") or {}).get(match[1])
    return value is not None and match[2] in {None, value}


def summary(resource: Mapping[str, Any], *, is_by_tag: bool) -> dict[str, Any]:
    """Returns a resource as the generic lists show it, unless they were asked for a tag: then without its tags."""
    keys = ("id", "name", "type", "location", *(() if is_by_tag else ("tags",)))
    return {key: resource[key] for key in keys if key in resource}


def _permissions(_path: Any, _query: Any, account: Account, _store: Any) -> Any:
    return {"value": [{"dataActions": [], "notDataActions": [], **one} for one in account.permissions]}


def _provider(path: dict[str, str], _query: Any, account: Account, _store: Any) -> Any:
    state = "NotRegistered" if path["namespace"].lower() in account.unregistered else "Registered"
    return {"namespace": path["namespace"], "registrationState": state, "resourceTypes": []}


def _skus(_path: Any, query: Mapping[str, str], account: Account, _store: Any) -> Any:
    match = re.fullmatch(r"location eq '([^']+)'", query.get("$filter", ""))
    location = match[1] if match else catalog.FALLBACK
    return {
        "value": [
            {"resourceType": "disks", "name": "StandardSSD_LRS", "locations": [location]},
            *(catalog.sku(one, location, account.restricted.get(one.name)) for one in catalog.EVERYTHING),
        ]
    }


def _usages(path: dict[str, str], _query: Any, account: Account, store: Store) -> Any:
    of = path["namespace"].lower().removeprefix("microsoft.")
    return {"value": account.usages(store.all(), path["location"], of=of)}


def _label(_path: Any, query: Mapping[str, str], account: Account, store: Store) -> Any:
    return {"available": account.is_label_free(query.get("domainNameLabel", ""), store.all())}


def _resources(path: dict[str, str], query: Mapping[str, str], _account: Any, store: Store) -> Any:
    root = (path.get("group") or "").lower()
    found = [one for one in store.listed(f"{root}/" if root else "") if "/providers/" in one["id"]]
    wanted = query.get("$filter", "")
    return {"value": [summary(one, is_by_tag=bool(wanted)) for one in found if has_tag(one, wanted)]}


def _of_type(path: dict[str, str], _query: Any, _account: Any, store: Store) -> Any:
    return {"value": [one for one in store.listed("") if one["type"].lower() == path["type"].lower()]}


def _images(path: dict[str, str], _query: Any, _account: Any, _store: Any) -> Any:
    known = OFFERS.get(path["offer"].lower(), {}).get(path["sku"].lower())
    where = "/".join(path[key] for key in ("publisher", "offer", "sku"))
    if path["publisher"].lower() != "canonical" or known is None:
        raise Refused(404, "NotFound", f"The platform image '{where}' is not available.")
    named = path.get("version")
    if named is None:
        return [{"name": version, "location": path["location"], "id": version} for version in VERSIONS]
    if named not in VERSIONS:
        raise Refused(404, "NotFound", f"The platform image '{where}/{named}' is not available.")
    generation, architecture = known
    features = [{"name": "SecurityType", "value": "TrustedLaunchSupported"}] if known == ("V2", "x64") else []
    properties = {"hyperVGeneration": generation, "architecture": architecture, "features": features}
    return {"name": named, "location": path["location"], "id": named, "properties": properties}


def _path(text: str) -> re.Pattern[str]:
    return re.compile(f"(?:/subscriptions/[^/]+){text}", re.IGNORECASE)


_IMAGE = (
    r"/providers/Microsoft\.Compute/locations/(?P<location>[^/]+)/publishers/(?P<publisher>[^/]+)"
    r"/artifacttypes/vmimage/offers/(?P<offer>[^/]+)/skus/(?P<sku>[^/]+)/versions(?:/(?P<version>[^/]+))?"
)
QUESTIONS: tuple[tuple[re.Pattern[str], Callable[[dict[str, Any], Mapping[str, str], Account, Store], Any]], ...] = (
    (_path(r"(?:/resourcegroups/[^/]+)?/providers/Microsoft\.Authorization/permissions"), _permissions),
    (_path(r"/providers/(?P<namespace>[^/]+)"), _provider),
    (_path(r"/providers/Microsoft\.Compute/skus"), _skus),
    (_path(r"/providers/(?P<namespace>Microsoft\.(?:Compute|Network))/locations/(?P<location>[^/]+)/usages"), _usages),
    (_path(r"/providers/Microsoft\.Network/locations/[^/]+/CheckDnsNameAvailability"), _label),
    (_path(r"/providers/(?P<type>Microsoft\.(?:Network/publicIPAddresses|Compute/virtualMachines))"), _of_type),
    (re.compile(r"(?P<group>/subscriptions/[^/]+/resourcegroups/[^/]+)/resources", re.IGNORECASE), _resources),
    (_path(r"/resources"), _resources),
    (_path(_IMAGE), _images),
)

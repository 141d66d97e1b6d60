"""azure-core's errors become ours, by one dict of Resource Manager's codes.

Source:
    https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors
"""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from azure.core import exceptions

from clouddeploy_providers import errors

if TYPE_CHECKING:
    from collections.abc import Iterator


class InterfaceReserved(errors.Conflict):
    """Azure keeps a network interface for the machine that it was last meant for, 180 seconds long."""


LOGIN_HINT = "run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
CODES: dict[str, type[errors.ProviderError]] = {
    "AuthenticationFailed": errors.AuthenticationError,
    "InvalidAuthenticationToken": errors.AuthenticationError,
    "InvalidAuthenticationTokenTenant": errors.AuthenticationError,
    "ExpiredAuthenticationToken": errors.AuthenticationError,
    "AuthorizationFailed": errors.AccessDenied,
    "LinkedAuthorizationFailed": errors.AccessDenied,
    "RequestDisallowedByPolicy": errors.AccessDenied,
    "SkuNotAvailable": errors.CapacityError,
    "AllocationFailed": errors.CapacityError,
    "ZonalAllocationFailed": errors.CapacityError,
    "OverconstrainedAllocationRequest": errors.CapacityError,
    "OverconstrainedZonalAllocationRequest": errors.CapacityError,
    "QuotaExceeded": errors.QuotaError,
    "OperationNotAllowed": errors.QuotaError,  # of 409, which the SDK calls ResourceExistsError
    "PublicIPCountLimitReached": errors.QuotaError,
    "IPv4StandardSkuPublicIpCountLimitReached": errors.QuotaError,
    "ResourceQuotaExceeded": errors.QuotaError,
    "SubscriptionNotFound": errors.InvalidRequest,
    "InvalidSubscriptionId": errors.InvalidRequest,
    "MissingSubscriptionRegistration": errors.InvalidRequest,
    "LocationNotAvailableForResourceType": errors.InvalidRequest,
    "InvalidParameter": errors.InvalidRequest,
    "ScopeLocked": errors.InvalidRequest,  # of 409; a lock does not go by itself
    "DnsRecordInUse": errors.InvalidRequest,
    "DomainNameLabelReserved": errors.InvalidRequest,
    "ResourceNotFound": errors.NotFound,
    "ResourceGroupNotFound": errors.NotFound,
    "NotFound": errors.NotFound,
    "TooManyRequests": errors.Throttled,
    "InternalServerError": errors.Transient,
    "ServerTimeout": errors.Transient,
    "ServiceUnavailable": errors.Transient,
    "RetryableError": errors.Transient,
    "AnotherOperationInProgress": errors.Transient,
    "InternalExecutionError": errors.Transient,
    "NetworkingInternalOperationError": errors.Transient,
    "OperationPreempted": errors.Transient,
    "CanceledAndSupersededDueToAnotherOperation": errors.Transient,
    "ReferencedResourceNotProvisioned": errors.Transient,
    "ResourceGroupBeingDeleted": errors.Transient,
    "CannotDeleteResource": errors.Conflict,
    "NicReservedForAnotherVm": InterfaceReserved,
    "PublicIPAddressCannotBeDeleted": errors.Conflict,
}
STATUSES: dict[int, type[errors.ProviderError]] = {
    HTTPStatus.UNAUTHORIZED: errors.AuthenticationError,
    HTTPStatus.FORBIDDEN: errors.AccessDenied,
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.CONFLICT: errors.Conflict,
    HTTPStatus.PRECONDITION_FAILED: errors.Conflict,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Throttled,
    HTTPStatus.BAD_REQUEST: errors.InvalidRequest,
}
HINTS = {
    errors.AuthenticationError: LOGIN_HINT,
    errors.AccessDenied: "ask for the permissions listed in docs/permissions.md",
    errors.CapacityError: "try later, another size or another location",
    errors.QuotaError: "delete what is not needed, or ask Azure for more under Quotas in the portal",
    errors.Conflict: "look at it in the Azure portal; destroy, then apply, starts afresh",
}
HINTS_OF_CODES = {
    "ScopeLocked": "remove the lock (`az lock list` shows it), then run the same command again",
    "DnsRecordInUse": "choose another dns_label; it is taken by somebody in this location",
    "DomainNameLabelReserved": "choose another dns_label; Azure keeps this one for itself",
    "SubscriptionNotFound": "correct subscription_id in the deploy file; `az account list` shows yours",
    "MissingSubscriptionRegistration": "`az provider register --namespace Microsoft.Compute`, and Microsoft.Network",
}


def kind_of(code: str, status: int, text: str = "") -> type[errors.ProviderError]:
    """Returns the class for an error of Resource Manager; the HTTP status decides where the code says nothing.

    The codes for things in use are one per type (`InUseSubnetCannotBeDeleted`, `NicInUse`), with status 400 or 409.
    `OperationNotAllowed` is a quota that is used up, or a disk that is still attached: only the text tells.
    """
    if code == "OperationNotAllowed" and "quota" not in text.lower():
        return errors.Conflict
    if code in CODES:
        return CODES[code]
    if "InUse" in code:
        return errors.Conflict
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.Transient
    return STATUSES.get(status, errors.ProviderError)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns azure-core's errors inside the block into ours; `what` names what failed."""
    try:
        yield
    except exceptions.ClientAuthenticationError as error:
        raise errors.AuthenticationError(what, why=_first_line(error), hint=LOGIN_HINT) from error
    except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as error:
        raise errors.Transient(what, why=_first_line(error), hint="check the network") from error
    except exceptions.HttpResponseError as error:
        code = error.error.code if error.error is not None and error.error.code else ""
        kind = kind_of(code, error.status_code or 0, str(error))
        hint = HINTS_OF_CODES.get(code) or HINTS.get(kind, "")
        raise kind(what, why=f"{code}: {_first_line(error)}".removeprefix(": "), hint=hint) from error
    except exceptions.AzureError as error:
        raise errors.ProviderError(what, why=_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

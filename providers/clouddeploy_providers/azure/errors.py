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
    "OperationNotAllowed": errors.QuotaError,
    "PublicIPCountLimitReached": errors.QuotaError,
    "ResourceNotFound": errors.NotFound,
    "ResourceGroupNotFound": errors.NotFound,
    "NotFound": errors.NotFound,
    "TooManyRequests": errors.Throttled,
    "InternalServerError": errors.Transient,
    "ServerTimeout": errors.Transient,
    "ServiceUnavailable": errors.Transient,
    "RetryableError": errors.Transient,
}
STATUSES = {
    HTTPStatus.UNAUTHORIZED: errors.AuthenticationError,
    HTTPStatus.FORBIDDEN: errors.AccessDenied,
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.CONFLICT: errors.Conflict,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Throttled,
    HTTPStatus.BAD_REQUEST: errors.InvalidRequest,
}


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
        status = error.status_code or 0
        kind = CODES.get(code) or STATUSES.get(HTTPStatus(status) if status in list(HTTPStatus) else HTTPStatus.OK)
        if kind is None:
            kind = errors.Transient if status >= HTTPStatus.INTERNAL_SERVER_ERROR else errors.ProviderError
        if "InUse" in code or "ReservedForAnotherVm" in code or code == "CannotDeleteResource":
            kind = errors.Conflict
        hint = LOGIN_HINT if kind is errors.AuthenticationError else ""
        if kind is errors.CapacityError:
            hint = "try later, another size or another location"
        raise kind(what, why=f"{code}: {_first_line(error)}", hint=hint) from error
    except exceptions.AzureError as error:
        raise errors.ProviderError(what, why=_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

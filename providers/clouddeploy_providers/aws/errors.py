"""botocore's errors become ours, by one dict of EC2's codes.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore import exceptions

from clouddeploy_providers import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN_HINT = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws sso login`"
CODES: dict[str, type[errors.ProviderError]] = {
    "AuthFailure": errors.AuthenticationError,
    "InvalidClientTokenId": errors.AuthenticationError,
    "SignatureDoesNotMatch": errors.AuthenticationError,
    "ExpiredToken": errors.AuthenticationError,
    "RequestExpired": errors.AuthenticationError,
    "UnrecognizedClientException": errors.AuthenticationError,
    "UnauthorizedOperation": errors.AccessDenied,
    "AccessDenied": errors.AccessDenied,
    "AccessDeniedException": errors.AccessDenied,
    "InsufficientInstanceCapacity": errors.CapacityError,
    "InsufficientHostCapacity": errors.CapacityError,
    "Unsupported": errors.CapacityError,
    "VcpuLimitExceeded": errors.QuotaError,
    "InstanceLimitExceeded": errors.QuotaError,
    "AddressLimitExceeded": errors.QuotaError,
    "SecurityGroupLimitExceeded": errors.QuotaError,
    "DependencyViolation": errors.Conflict,
    "InvalidIPAddress.InUse": errors.Conflict,
    "InvalidGroup.Duplicate": errors.Conflict,
    "IdempotentParameterMismatch": errors.Conflict,
    "RequestLimitExceeded": errors.Throttled,
    "Throttling": errors.Throttled,
    "ThrottlingException": errors.Throttled,
    "InternalError": errors.Transient,
    "InternalFailure": errors.Transient,
    "Unavailable": errors.Transient,
    "ServiceUnavailable": errors.Transient,
    "ParameterNotFound": errors.NotFound,
}
CREDENTIALS = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound)
NETWORK = (exceptions.EndpointConnectionError, exceptions.HTTPClientError, exceptions.ConnectionClosedError)


def kind_of(code: str) -> type[errors.ProviderError]:
    """Returns the class for an EC2 error code."""
    if code in CODES:
        return CODES[code]
    if code.endswith((".NotFound", ".NotFoundException")) and not code.startswith(
        ("InvalidInstanceType", "InvalidAMIID")
    ):
        return errors.NotFound
    return (
        errors.InvalidRequest
        if code.startswith(("Invalid", "Missing", "Malformed", "Unknown"))
        else errors.ProviderError
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns botocore's errors inside the block into ours; `what` names what failed."""
    try:
        yield
    except CREDENTIALS as error:
        raise errors.AuthenticationError(
            f"{what}: there are no AWS credentials", why=str(error), hint=LOGIN_HINT
        ) from error
    except NETWORK as error:
        raise errors.Transient(what, why=str(error), hint="check the network and the region's name") from error
    except exceptions.ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        kind = kind_of(code)
        hint = LOGIN_HINT if kind is errors.AuthenticationError else ""
        if kind is errors.AccessDenied:
            hint = "ask for the permissions listed in docs/permissions.md"
        raise kind(what, why=f"{code}: {message}", hint=hint) from error
    except exceptions.BotoCoreError as error:
        raise errors.InvalidRequest(what, why=str(error)) from error

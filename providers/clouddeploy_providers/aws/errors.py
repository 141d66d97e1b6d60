"""botocore's errors become ours, by one dict of EC2's codes.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore import exceptions
from botocore.parsers import ResponseParserError

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
    "ExpiredTokenException": errors.AuthenticationError,
    "InvalidAccessKeyId": errors.AuthenticationError,
    "UnauthorizedOperation": errors.AccessDenied,
    "AccessDenied": errors.AccessDenied,
    "AccessDeniedException": errors.AccessDenied,
    "OptInRequired": errors.AccessDenied,
    "Blocked": errors.AccessDenied,
    "PendingVerification": errors.AccessDenied,
    "InsufficientInstanceCapacity": errors.CapacityError,
    "InsufficientHostCapacity": errors.CapacityError,
    "InsufficientFreeAddressesInSubnet": errors.CapacityError,
    "InsufficientVolumeCapacity": errors.CapacityError,
    "InsufficientAddressCapacity": errors.CapacityError,
    "Unsupported": errors.CapacityError,
    "VcpuLimitExceeded": errors.QuotaError,
    "InstanceLimitExceeded": errors.QuotaError,
    "AddressLimitExceeded": errors.QuotaError,
    "SecurityGroupLimitExceeded": errors.QuotaError,
    "SecurityGroupsPerInstanceLimitExceeded": errors.QuotaError,
    "RulesPerSecurityGroupLimitExceeded": errors.QuotaError,
    "VolumeLimitExceeded": errors.QuotaError,
    "MaxIOPSLimitExceeded": errors.QuotaError,
    "DependencyViolation": errors.Conflict,
    "InvalidIPAddress.InUse": errors.Conflict,
    "InvalidGroup.Duplicate": errors.Conflict,
    "IdempotentParameterMismatch": errors.Conflict,
    "IdempotentInstanceTerminated": errors.Conflict,
    # Another worker, or our own lost request, has just added the rule: reading the rules again settles it.
    "InvalidPermission.Duplicate": errors.Transient,
    "RequestLimitExceeded": errors.Throttled,
    "Throttling": errors.Throttled,
    "ThrottlingException": errors.Throttled,
    "EC2ThrottledException": errors.Throttled,
    "TooManyRequestsException": errors.Throttled,
    "InternalError": errors.Transient,
    "InternalFailure": errors.Transient,
    "Unavailable": errors.Transient,
    "ServiceUnavailable": errors.Transient,
    "ParameterNotFound": errors.NotFound,
    "NoSuchResourceException": errors.NotFound,
    "VolumeInUse": errors.Conflict,
    "InvalidNetworkInterface.InUse": errors.Conflict,
    # A machine that has just begun to stop cannot be started; when it has stopped, it can.
    "IncorrectInstanceState": errors.Transient,
}
FOREIGN_IMAGE = "Not authorized for images"
"""With this message `AuthFailure` is about an image that its owner does not share, and not about the credentials."""
CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
)
NETWORK = (
    exceptions.EndpointConnectionError,
    exceptions.HTTPClientError,
    exceptions.ConnectionClosedError,
    ResponseParserError,  # a proxy's or load balancer's own page instead of an answer of AWS
)
PERMISSIONS_HINT = "ask for the permissions listed in docs/permissions.md"
SERVER_ERROR = 500
HINTS = {
    errors.AuthenticationError: LOGIN_HINT,
    errors.AccessDenied: PERMISSIONS_HINT,
    errors.CapacityError: "try later, another size or another region",
    errors.QuotaError: "delete what is not needed, or ask AWS for more in the Service Quotas console",
    errors.Conflict: "look at it in the AWS console; destroy, then apply, starts afresh",
    errors.InvalidRequest: "correct the value in the deploy file; ids differ between regions and accounts",
    errors.NotFound: "somebody deleted it meanwhile; run the same command again",
    errors.Throttled: "other programs use the same account; run the same command again in a minute",
    errors.Transient: "run the same command again",
    errors.ProviderError: "look the code up in https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html",
}


def kind_of(code: str, status: int = 400, message: str = "") -> type[errors.ProviderError]:
    """Returns the class for an EC2 error code; the HTTP status decides where the code says nothing."""
    if code == "AuthFailure" and message.startswith(FOREIGN_IMAGE):
        return errors.InvalidRequest
    if code in CODES:
        return CODES[code]
    if code.endswith((".NotFound", ".NotFoundException")) and not code.startswith(
        ("InvalidInstanceType", "InvalidAMIID")
    ):
        return errors.NotFound
    if code.startswith(("Invalid", "Missing", "Malformed", "Unknown")):
        return errors.InvalidRequest
    return errors.Transient if status >= SERVER_ERROR else errors.ProviderError


def code_of(error: errors.ProviderError) -> str:
    """Returns the code of EC2 that an error was made from; empty where there is none."""
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, exceptions.ClientError) else ""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns botocore's errors inside the block into ours; `what` names what failed."""
    try:
        yield
    except CREDENTIALS as error:
        raise errors.AuthenticationError(
            f"{what}: there are no valid AWS credentials", why=str(error), hint=LOGIN_HINT
        ) from error
    except NETWORK as error:
        why = str(error).splitlines()[0]
        raise errors.Transient(what, why=why, hint="check the network and the region's name") from error
    except exceptions.ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        kind = kind_of(code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), message)
        raise kind(what, why=f"{code}: {message}", hint=HINTS.get(kind, "")) from error
    except exceptions.BotoCoreError as error:
        raise errors.InvalidRequest(what, why=str(error), hint=HINTS[errors.InvalidRequest]) from error

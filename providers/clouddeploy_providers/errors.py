"""Everything that a provider may raise.

    ProviderError
    ├── AuthenticationError   credentials are missing, wrong or expired             exit 2
    ├── AccessDenied          the identity may not do this action                   exit 2
    ├── InvalidRequest        a value the provider refuses                          exit 4
    ├── NotFound              a thing that had to exist does not
    ├── Conflict              a name is taken, or something still depends on it
    ├── CapacityError         no machine of this size here now; another zone may do
    ├── QuotaError            the account's limit is reached
    ├── DeadlineExceeded      it did not happen in time                             exit 3
    ├── Throttled             too many requests; retried
    └── Transient             a failure that passes; retried

Each provider maps its SDK's errors to these at one place, by a dict of codes, `raise … from exc`. The engine decides
on the class alone: `Throttled` and `Transient` are retried, the rest ends the site. Programming errors pass through.
"""

from __future__ import annotations

from clouddeploy_runtime.errors import ClouddeployError, ExitCode


class ProviderError(ClouddeployError):
    """A provider could not do what was asked."""

    error_code = "PROVIDER_ERROR"


class AuthenticationError(ProviderError):
    """Credentials are missing, wrong or expired."""

    exit_code = ExitCode.CONNECTION
    error_code = "AUTHENTICATION_FAILED"


class AccessDenied(ProviderError):
    """The identity is known but may not do this action."""

    exit_code = ExitCode.CONNECTION
    error_code = "ACCESS_DENIED"


class InvalidRequest(ProviderError):
    """The provider refuses a value."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID_REQUEST"


class NotFound(ProviderError):
    """A thing that had to exist does not."""

    error_code = "NOT_FOUND"


class Conflict(ProviderError):
    """A name is taken, or something still depends on the thing."""

    error_code = "CONFLICT"


class CapacityError(ProviderError):
    """No machine of this size is free here now."""

    error_code = "NO_CAPACITY"


class QuotaError(ProviderError):
    """The account's limit is reached."""

    error_code = "QUOTA_EXCEEDED"


class Throttled(ProviderError):
    """Too many requests in a short time; the engine waits and repeats."""

    error_code = "THROTTLED"


class Transient(ProviderError):
    """A failure that is expected to pass; the engine waits and repeats."""

    error_code = "TRANSIENT"


class DeadlineExceeded(ProviderError):
    """What was waited for did not happen in time."""

    exit_code = ExitCode.TIMEOUT
    error_code = "DEADLINE_EXCEEDED"

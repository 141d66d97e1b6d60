"""Everything that the dashboard refuses, each with the status of its answer.

    DashboardError            exit 1, HTTP 500
    ├── DashboardState        it runs already, or it does not run                  exit 1
    ├── Unauthenticated       nobody is logged in, or e-mail and password are wrong  401
    │   └── CodeNeeded        the password is right; a code of the second factor is missing  401
    ├── Forbidden             who asks may not do this                             403
    │   ├── NotApproved       who asks, or what is asked about, is not approved yet  403
    │   └── ProofNeeded       who asks must type their password again first        403
    ├── NotFound              there is no such thing, or not for who asks          404
    ├── Conflict              the state of things does not allow it                409
    ├── Changed               it is not any more what was seen                     412
    ├── DigestNeeded          it was not said what was seen                        428
    ├── Invalid               what was sent cannot be used                         400
    ├── TooLarge              more was sent than anything needs                    413
    └── TooMany               too many tries; says when the next one counts        429

Errors of provisioning pass through and get their status at the edge, see `status_of`. SQLAlchemy's refusals of a name
that is taken become `Conflict` in `database`.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from clouddeploy_runtime.errors import ClouddeployError, ExitCode

from clouddeploy.errors import DeployError


class DashboardError(DeployError):
    """The dashboard could not do what was asked."""

    error_code = "DASHBOARD"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    word = "error"
    """What the reference's API calls it, in the field `status`."""


class DashboardState(DashboardError):
    """It runs already, does not run, or its folder is not made yet."""

    error_code = "DASHBOARD_STATE"
    status = HTTPStatus.CONFLICT


class Unauthenticated(DashboardError):
    """Nobody is logged in, or e-mail and password do not belong together."""

    exit_code = ExitCode.CONNECTION
    error_code = "UNAUTHENTICATED"
    status = HTTPStatus.UNAUTHORIZED
    word = "unauthenticated"


class CodeNeeded(Unauthenticated):
    """The password is right, but a code of the second factor is missing."""

    error_code = "CODE_NEEDED"


class Forbidden(DashboardError):
    """Who asks may not do this."""

    exit_code = ExitCode.CONNECTION
    error_code = "FORBIDDEN"
    status = HTTPStatus.FORBIDDEN
    word = "unauthorized"


class NotApproved(Forbidden):
    """Who asks, or what is asked about, is not approved yet."""

    error_code = "NOT_APPROVED"
    word = "not approved yet"


class ProofNeeded(Forbidden):
    """Who asks must type their password again first."""

    error_code = "PROOF_NEEDED"
    word = "proof needed"


class NotFound(DashboardError):
    """There is no such thing, or it is nothing to who asks."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "NOT_FOUND"
    status = HTTPStatus.NOT_FOUND
    word = "not found"


class Conflict(DashboardError):
    """The state of things does not allow it.

    Args:
        what, why, hint: as with every error.
        word: what the reference's API calls it.
    """

    exit_code = ExitCode.BAD_INPUT
    error_code = "CONFLICT"
    status = HTTPStatus.CONFLICT
    word = "conflicting"

    def __init__(self, what: str, *, why: str = "", hint: str = "", word: str = "conflicting") -> None:
        super().__init__(what, why=why, hint=hint)
        self.word = word


class Changed(DashboardError):
    """What was seen has changed meanwhile (RFC 9110 §15.5.13)."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "CHANGED"
    status = HTTPStatus.PRECONDITION_FAILED
    word = "changed"


class DigestNeeded(DashboardError):
    """An approval must say what was seen (RFC 6585 §3)."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "DIGEST_NEEDED"
    status = HTTPStatus.PRECONDITION_REQUIRED
    word = "digest needed"


class Invalid(DashboardError):
    """What was sent cannot be used."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "INVALID"
    status = HTTPStatus.BAD_REQUEST
    word = "invalid"


class TooLarge(DashboardError):
    """More was sent than anything here needs."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "TOO_LARGE"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    word = "too large"


class TooMany(DashboardError):
    """Too many tries, or too much at once.

    Args:
        what, why, hint: as with every error.
        retry_after_s: seconds until the next one counts.
    """

    exit_code = ExitCode.CONNECTION
    error_code = "TOO_MANY_TRIES"
    status = HTTPStatus.TOO_MANY_REQUESTS
    word = "too many requests"

    def __init__(
        self,
        what: str = "too many tries",
        *,
        why: str = "they came too fast, or failed too often",
        hint: str = "",
        retry_after_s: float,
    ) -> None:
        # Up, for who comes a moment too early is refused once more; of clocks in floating point that is no moment.
        seconds = max(1, math.ceil(round(retry_after_s, 3)))
        super().__init__(what, why=why, hint=hint or f"try again in {seconds} s")
        self.retry_after_s = seconds


def status_of(error: ClouddeployError) -> HTTPStatus:
    """Returns the status of the answer that tells an error."""
    if isinstance(error, DashboardError):
        return error.status
    if error.exit_code is ExitCode.LOCKED:
        return HTTPStatus.CONFLICT
    return HTTPStatus.BAD_REQUEST if error.exit_code is ExitCode.BAD_INPUT else HTTPStatus.INTERNAL_SERVER_ERROR

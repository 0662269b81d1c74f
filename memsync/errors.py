"""The one tree of errors, as callers see it.

    MemsyncError
    ├── InvalidRequest          400  INVALID_REQUEST
    │   ├── InvalidJson         400  INVALID_JSON
    │   └── MissingEndUser      400  MISSING_END_USER_ID
    ├── Unauthenticated         401  INVALID_API_KEY
    │   └── MissingApiKey       401  MISSING_API_KEY
    ├── Forbidden               403  INSUFFICIENT_SCOPE
    │   ├── ApiKeyRevoked       403  API_KEY_REVOKED
    │   └── TenantMismatch      403  TENANT_MISMATCH
    ├── NotFound                404  NOT_FOUND
    │   └── ProjectNotFound     404  PROJECT_NOT_FOUND
    ├── MethodNotAllowed        405  METHOD_NOT_ALLOWED
    ├── Conflict                409  CONFLICT
    │   └── VersionConflict     409  VERSION_CONFLICT
    ├── PayloadTooLarge         413  PAYLOAD_TOO_LARGE
    ├── ValidationFailed        422  VALIDATION_ERROR
    │   └── KeyReused           422  IDEMPOTENCY_KEY_REUSED
    ├── RateLimited             429  RATE_LIMIT_EXCEEDED
    ├── Internal                500  INTERNAL
    ├── NotBuilt                501  NOT_IMPLEMENTED
    └── Unavailable             503  OVERLOADED
        ├── NoQuorum            503  NO_QUORUM
        ├── NoStripeLeader      503  NO_STRIPE_LEADER
        ├── NoCluster           503  NO_CLUSTER        (of the client library; never an answer)
        ├── NoRoom              503  OVERLOADED        (inside a peer: nobody was asked)
        ├── StoreDamaged        503  OVERLOADED        (ends the peer; its next start mends it)
        └── OutcomeUnknown      503  OUTCOME_UNKNOWN   (the only one that is not definite)

`definite` means: it did not happen and will not. `retryable` means: the same request may succeed
later without being changed; with the same `Idempotency-Key` or `client_ref` repeating is always
safe. Messages carry facts and numbers, never memory text and never a secret.

Beside the tree stand two errors that no caller of the API ever sees: `ConfigurationError`, for the
person who starts a process, and `InvariantBroken`, which makes a peer stop applying and say why.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class MemsyncError(Exception):
    """An error that a caller sees: `code`, an HTTP status, and whether the outcome is known."""

    code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    definite: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        details: Any = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s


class InvalidRequest(MemsyncError):
    """The request is not of a form that the route takes."""

    code = "INVALID_REQUEST"
    http_status = 400


class InvalidJson(InvalidRequest):
    """The body is not JSON."""

    code = "INVALID_JSON"


class MissingEndUser(InvalidRequest):
    """Neither `X-End-User-ID` nor `end_user_id` names the end user."""

    code = "MISSING_END_USER_ID"


class Unauthenticated(MemsyncError):
    """The API key is unknown or has expired."""

    code = "INVALID_API_KEY"
    http_status = 401


class MissingApiKey(Unauthenticated):
    """The request carries no API key."""

    code = "MISSING_API_KEY"


class Forbidden(MemsyncError):
    """The key is good but lacks the scope that the operation needs."""

    code = "INSUFFICIENT_SCOPE"
    http_status = 403


class ApiKeyRevoked(Forbidden):
    """The key was revoked."""

    code = "API_KEY_REVOKED"


class TenantMismatch(Forbidden):
    """`tenant_id` names another organisation than the key's."""

    code = "TENANT_MISMATCH"


class NotFound(MemsyncError):
    """There is no such thing, or this caller may not see it."""

    code = "NOT_FOUND"
    http_status = 404


class ProjectNotFound(NotFound):
    """The organisation has no such project."""

    code = "PROJECT_NOT_FOUND"


class MethodNotAllowed(MemsyncError):
    """The route exists, with other methods."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class Conflict(MemsyncError):
    """What is there does not allow it; the message says what, and what to do."""

    code = "CONFLICT"
    http_status = 409


class VersionConflict(Conflict):
    """`if_version` is not the current version; `details.current_version` is."""

    code = "VERSION_CONFLICT"


class PayloadTooLarge(MemsyncError):
    """The body is larger than the limit."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413


class ValidationFailed(MemsyncError):
    """A field is wrong; the message is "field: reason", `details` lists every one found."""

    code = "VALIDATION_ERROR"
    http_status = 422


class KeyReused(ValidationFailed):
    """The `Idempotency-Key` was used with another request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class RateLimited(MemsyncError):
    """The key, or the address, sends more than its limit; `retry_after_s` says when to return."""

    code = "RATE_LIMIT_EXCEEDED"
    http_status = 429
    retryable = True


class Internal(MemsyncError):
    """A fault of ours, on a path that changes nothing. Its details are in the log, not in the
    answer."""


class NotBuilt(MemsyncError):
    """The route is part of the API but is not built yet."""

    code = "NOT_IMPLEMENTED"
    http_status = 501


class Unavailable(MemsyncError):
    """A queue is full or a part is not ready: nothing happened, try again."""

    code = "OVERLOADED"
    http_status = 503
    retryable = True


class NoQuorum(Unavailable):
    """No majority of the servers, or of the members, can take a write; nothing was written."""

    code = "NO_QUORUM"


class NoStripeLeader(Unavailable):
    """The home stripe of a conditional update has no leader at the moment; nothing was written."""

    code = "NO_STRIPE_LEADER"


class NoCluster(Unavailable):
    """Nobody who speaks memsync answers at this address; nothing was changed. Only the client
    library raises it: no answer can say it."""

    code = "NO_CLUSTER"


class NoRoom(Unavailable):
    """As many calls as may be are under way already, so that this one was not made: it says nothing
    of whom it was for, and no breaker counts it."""


class StoreDamaged(Unavailable):
    """The file of this peer's store is damaged. The process ends with 1; at its next start the file
    is set aside and the store is filled from the other members. To callers it is as any other
    reason to ask somebody else."""


class OutcomeUnknown(Unavailable):
    """The write may or may not have happened. Repeating it with the same key settles it."""

    code = "OUTCOME_UNKNOWN"
    definite = False


class ConfigurationError(Exception):
    """A setting is wrong. The message names the field and says what to do; the process exits
    with 2."""


class InvariantBroken(Exception):
    """Something that cannot be was seen: the peer stops applying and coordinating, and says why."""


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `error` object of an answer. `retry_after` is in seconds."""

    code: str
    message: str
    definite: bool
    details: Any = None
    retry_after: float | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorBody
    request_id: str


def error_answer(error: MemsyncError, request_id: str) -> ErrorAnswer:
    """The body that says `error` to a caller."""
    body = ErrorBody(
        code=error.code,
        message=error.message,
        definite=error.definite,
        details=error.details,
        retry_after=error.retry_after_s,
    )
    return ErrorAnswer(error=body, request_id=request_id)


def _tree(root: type[MemsyncError]) -> list[type[MemsyncError]]:
    return [root] + [leaf for child in root.__subclasses__() for leaf in _tree(child)]


def error_class(code: str) -> type[MemsyncError]:
    """The class of the tree whose `code` is this; `Internal` for one that this version does not
    know."""
    return next((cls for cls in _tree(MemsyncError)[1:] if cls.code == code), Internal)


def error_from_answer(answer: ErrorAnswer) -> MemsyncError:
    """The error that a peer put into its answer, to be raised again on this side."""
    body = answer.error
    cls = error_class(body.code)
    return cls(body.message, details=body.details, retry_after_s=body.retry_after)

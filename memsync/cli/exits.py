"""How the command ends: its exit codes, and the errors that only the command line has."""

from __future__ import annotations

from memsync import errors

OK = 0
REFUSED = 1
USAGE = 2
NO_CLUSTER = 3
UNKNOWN = 4
INTERRUPTED = 130

EXIT_CODES = """Exit codes: 0 done; 1 the server refused or failed; 2 wrong usage or
input file; 3 no cluster reachable; 4 outcome unknown (repeat with the
same --idempotency-key); 130 interrupted (Ctrl-C)."""

HINTS = {  # what to do, by the code of the error
    "INVALID_API_KEY": "see MEMSYNC_API_KEY, or dev.key in the home of a local cluster",
    "API_KEY_REVOKED": "take another one (memsync keys create)",
    "INSUFFICIENT_SCOPE": "take a key with that scope (memsync keys create --scope)",
    "CONFLICT": "see memsync cluster members",
    "OVERLOADED": "try again in a moment",
    "NO_QUORUM": "see memsync status for what is down, and try again",
    "NO_STRIPE_LEADER": "see memsync status for what is down, and try again",
}


class UsageProblem(Exception):
    """The command line, the environment or an input file is wrong; nothing was sent."""


Failure = errors.MemsyncError | errors.ConfigurationError | UsageProblem
FAILURES = (errors.MemsyncError, errors.ConfigurationError, UsageProblem)


def exit_code_of(failure: Failure) -> int:
    """The exit code that stands for a failure."""
    if isinstance(failure, errors.NoCluster):
        return NO_CLUSTER
    if isinstance(failure, errors.MemsyncError):
        return REFUSED if failure.definite else UNKNOWN
    return USAGE


def code_of(failure: Failure) -> str:
    """The `code` of a failure in JSON: that of the API, or one of the command line's own."""
    return failure.code if isinstance(failure, errors.MemsyncError) else "USAGE"


def sentence_of(failure: Failure) -> str:
    """A failure in one line for a person."""
    text = " ".join(str(failure).split())
    hint = HINTS.get(code_of(failure))
    text = f"{text}: {hint}" if hint else text
    is_told = isinstance(failure, errors.MemsyncError) and not isinstance(failure, errors.NoCluster)
    return f"{code_of(failure)}: {text}" if is_told else text

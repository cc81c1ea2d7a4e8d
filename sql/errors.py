"""What can go wrong between us and PostgreSQL, as the callers need to tell it apart.

DatabaseError
├── Fenced            another owner holds the partition: drop the batch, do not retry
├── Unavailable       a passing fault: the same call again, later, is right
├── Waiting           a call's command would have to wait (reason): tell the caller, nothing was kept
└── RetryTaken        somebody else decided this retry
"""

from typing import Final

import asyncpg


class DatabaseError(Exception):
    """Base of what this floor raises; anything else is a bug of ours."""


class Fenced(DatabaseError):
    """Another owner claimed the partition, or our idea of its watermarks is stale."""


class Unavailable(DatabaseError):
    """PostgreSQL cannot answer now: connection lost, shutting down, too many connections, deadlock."""


class Waiting(DatabaseError):
    """A synchronous command cannot be decided yet; `reason` says for what it would wait."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryTaken(DatabaseError):
    """The retry was decided, or taken, meanwhile."""


# Classes 08 (connection), 53 (no disk, memory or connections left), 57 (operator), 58 (system), XX (internal), and what
# a whole-transaction retry cures. None of them is a record's fault, so none of them ever dead-letters one.
_PASSING: Final = ("08", "53", "57", "58", "XX", "40001", "40P01", "55P03", "25006")


def is_passing(error: BaseException) -> bool:
    """Whether the same call again, later, is the right answer to `error`."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_PASSING)
    if isinstance(error, ValueError):  # an argument that cannot be sent, now or later
        return False
    return isinstance(
        error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError)
    )

"""What can go wrong with a call, as a tree:

CoreError
├─ Unreachable            no answer came; whether it was done is not known. The same key again is right
│  └─ TimedOut
├─ BadAnswer              an answer that is none of the API's
├─ WaitsForApproval       202: a second person must approve it first
└─ ApiError               the API said no; `code` is stable, see docs/client.md
   ├─ Invalid             400, 413, 415, 422
   ├─ Unauthorised        401
   ├─ InsufficientCredits 402; stays so for its key
   ├─ Forbidden           403
   ├─ NotFound            404, also for what is another's
   ├─ Conflict            409
   ├─ TooManyRequests     429, after the last attempt
   └─ ServerError         5xx, after the last attempt
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID


class CoreError(Exception):
    """Anything that this client raises."""


class Unreachable(CoreError):
    """No answer came, however often it was tried. `key` is the Idempotency-Key to try with again later."""

    def __init__(self, text: str, *, key: str | None) -> None:
        super().__init__(text)
        self.key = key


class TimedOut(Unreachable):
    """The time that a call may take was over before an answer came."""


class BadAnswer(CoreError):
    """What came is no answer of the API: another server, another version, a proxy's page."""


class WaitsForApproval(CoreError):
    """It was asked for and is not done: another person must approve it. The same call with the same key says how it went."""

    def __init__(self, approval_id: UUID, summary: str, key: str | None) -> None:
        super().__init__(f"approval {approval_id}: {summary}")
        self.approval_id = approval_id
        self.summary = summary
        self.key = key


class ApiError(CoreError):
    """A problem (RFC 9457). `members` is all that its body said."""

    def __init__(
        self, status: int, code: str, detail: str, request_id: str | None, members: Mapping[str, Any]
    ) -> None:
        super().__init__(f"{status} {code}: {detail} (request {request_id})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.members = members


class Invalid(ApiError):
    """The request is not what the API takes; sending it again changes nothing."""


class Unauthorised(ApiError):
    """The key is not good, or not any more."""


class InsufficientCredits(ApiError):
    """The wallet has too few available credits. The refusal is kept for this key: after a top-up, a new call."""


class Forbidden(ApiError):
    """The key lacks a scope."""


class NotFound(ApiError):
    """There is no such thing, or it is another's."""


class Conflict(ApiError):
    """It contradicts what is there: the key stands for another request, the hold is closed, …"""


class TooManyRequests(ApiError):
    """Too fast, also after waiting as long as we were told."""


class ServerError(ApiError):
    """The core cannot just now. Nothing is lost: the same call again is right."""


_KINDS: Final[dict[int, type[ApiError]]] = {
    400: Invalid,
    401: Unauthorised,
    402: InsufficientCredits,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
}


def of_status(status: int) -> type[ApiError]:
    """The class of a problem."""
    return _KINDS.get(status, ServerError if status >= 500 else ApiError)

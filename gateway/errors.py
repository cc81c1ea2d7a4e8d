"""What can go wrong between us and Cashfree, sorted by the one question that matters: may it have happened?

::

    GatewayError
    ├── Refused             Cashfree said no: it did not happen, asking again changes nothing
    │   ├── BadRequest        400, 422: our request is wrong
    │   ├── Unauthorised      401, 403: our credentials are wrong
    │   ├── NotFound          404
    │   ├── AlreadyExists     409: the id is taken (often by ourselves, one attempt ago)
    │   ├── ContentMismatch   the id is taken by something else than what we asked for
    │   └── KeyMismatch       the idempotency key was used with another request
    ├── NotSent             it did not happen; asking again later is safe
    │   ├── RateLimited       429, with the seconds to wait
    │   ├── OverBudget        our own limit for the endpoint is used up
    │   └── Unreachable       no connection was made
    └── OutcomeUnknown      it may have happened: ask (GET) before asking again, never under a new id
        ├── TimedOut
        ├── ConnectionLost
        ├── ServerFault       5xx
        └── BadAnswer         an answer we cannot read, or a redirect
"""

from __future__ import annotations


class GatewayError(Exception):
    """Anything between us and Cashfree. `endpoint` is the method's name in the client."""

    def __init__(self, endpoint: str, detail: str) -> None:
        super().__init__(f"{endpoint}: {detail}")
        self.endpoint = endpoint
        self.detail = detail


class Refused(GatewayError):
    """Cashfree answered, and the answer is no."""

    def __init__(
        self, endpoint: str, detail: str, *, status: int = 0, code: str = "", kind: str = ""
    ) -> None:
        super().__init__(endpoint, f"{status} {code} {detail}".strip())
        self.status = status
        self.code = code
        self.kind = kind


class BadRequest(Refused):
    """The request is wrong in itself."""


class Unauthorised(Refused):
    """The merchant's credentials are not accepted."""


class NotFound(Refused):
    """There is no such thing, or not yet: a GET may lag behind a POST."""


class AlreadyExists(Refused):
    """The id is taken."""


class ContentMismatch(Refused):
    """The id is taken and stands for another amount, currency or order: a person must look."""


class KeyMismatch(Refused):
    """An idempotency key came back with another request. Sources disagree whether that is a 400 or a 422."""


class NotSent(GatewayError):
    """Nothing happened at Cashfree. `retry_after_s` is the earliest time that asking again makes sense."""

    def __init__(self, endpoint: str, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(endpoint, detail)
        self.retry_after_s = retry_after_s


class RateLimited(NotSent):
    """429."""


class OverBudget(NotSent):
    """Our own token bucket for this endpoint is empty."""


class Unreachable(NotSent):
    """No connection could be made, so nothing was sent."""


class OutcomeUnknown(GatewayError):
    """The request may have been carried out."""


class TimedOut(OutcomeUnknown):
    """No answer in time."""


class ConnectionLost(OutcomeUnknown):
    """The connection broke after the request was (or may have been) sent."""


class ServerFault(OutcomeUnknown):
    """A 5xx answer. `status` is the HTTP status."""

    def __init__(self, endpoint: str, detail: str, *, status: int) -> None:
        super().__init__(endpoint, f"{status} {detail}")
        self.status = status


class BadAnswer(OutcomeUnknown):
    """A success we cannot read."""

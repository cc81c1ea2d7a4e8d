"""What went wrong, as RFC 9457 problem details with a stable `code` that programs may rely on."""

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

MEDIA_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """An answer that is not a success. `code` is stable, `detail` is for people, `members` extend the body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str = "",
        *,
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    def response(self, request_id: str) -> web.Response:
        """The problem as an HTTP answer."""
        body = {
            "type": f"/problems/{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail or self.code.replace("_", " "),
            "request_id": request_id,
            **self.members,
        }
        return web.Response(
            status=self.status,
            body=msgspec.json.encode(body),
            headers={"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", **self.headers},
        )


def not_found(what: str) -> Problem:
    """404 for a thing that is not there, or not the caller's."""
    return Problem(404, f"unknown_{what}", f"there is no such {what}")


def key_conflict() -> Problem:
    """409: the Idempotency-Key stands for another request."""
    return Problem(
        409, "idempotency_key_conflict", "this Idempotency-Key was used for another request; use a new one"
    )


def unavailable(detail: str = "the database cannot answer now; nothing was lost, try again") -> Problem:
    """503: the same request again, later, is right."""
    return Problem(503, "database_unavailable", detail, headers={"Retry-After": "1"})


def overloaded() -> Problem:
    """503: more is under way than we can do; nothing of this request was done."""
    return Problem(503, "overloaded", "too much is waiting just now; try again", headers={"Retry-After": "2"})

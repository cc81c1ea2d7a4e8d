"""One call of the API: who, with what, under which key; and the shape of routes.

A route names its types, so that the body is read strictly before a handler sees it, and a description of the
API can be generated from the same table.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Struct

from web.auth import Caller, Reach, Role, Scope
from web.bodies import read_json_body
from web.once import REPLAYED, once
from web.ownership import check_body, check_query
from web.problems import Problem, not_found
from web.replies import Reply
from web.services import SERVICES, Services
from web.shapes import NoQuery
from web.strict import Decoder, Malformed
from web.waiting import WaitingAnswer, ask

BODY_BYTES: Final = 64 * 1024
USAGE_BODY_BYTES: Final = 1024 * 1024
_KEY: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,128}")  # printable, no space, no ':'
_STATUS: Final = {"metadata_too_large": 422, "invalid_request": 422, "invalid_text": 422}

B = TypeVar("B")
Q = TypeVar("Q")


class Key(Enum):
    """What becomes of a write's Idempotency-Key. It counts for its caller alone."""

    OWN = "own"
    """Required, and kept for ever with what the write makes; whoever sends it again is told how that stands."""
    KEPT = "kept"
    """Optional, kept for thirty days with the answer, which whoever sends it again is given."""
    MONEY = "money"
    """Optional, kept for ever with the answer."""
    FREE = "free"
    """Not looked at: to send it again does no harm."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An approved request: the parts of its path, and its key, scoped already."""

    path: Mapping[str, str]
    key: str


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler is given besides its body or query."""

    request: web.Request
    services: Services
    caller: Caller
    asked: "Asked | None" = None
    """What this call repeats, if a second person has approved it."""

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that its route names."""
        return self.request.match_info if self.asked is None else self.asked.path

    def uuid(self, name: str, what: str) -> UUID:
        """A UUID of the path. Errors: Problem 404, also for what is no UUID."""
        try:
            return UUID(self.path[name])
        except ValueError as error:
            raise not_found(what) from error

    def key(self) -> str:
        """The Idempotency-Key, scoped to the caller. Errors: Problem 400."""
        key = self.given_key()
        if key is None:
            raise Problem(
                400, "idempotency_key_required", "send an Idempotency-Key; repeat it when you retry"
            )
        return key

    def given_key(self) -> str | None:
        """The same where it may be left out. Errors: Problem 400."""
        if self.asked is not None:
            return self.asked.key
        given = self.request.headers.getall("Idempotency-Key", [])
        if not given:
            return None
        if len(given) > 1 or _KEY.fullmatch(given[0]) is None:
            raise Problem(
                400, "idempotency_key_invalid", "one Idempotency-Key of 1 to 128 printable characters but ':'"
            )
        return f"{self.caller.principal}:{given[0]}"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the router's table. `body`, `query` and `answer` are its types, where it has any."""

    method: str
    path: str
    scope: Scope
    handle: Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
    body: Any = None
    query: Any = None
    answer: Any = None
    handler: Any = None
    """What does the work; `handle` reads the call for it."""
    keyed: Key | None = None
    second_person: Any = None
    again: Callable[[Call, bytes], Awaitable[Reply]] | None = None
    """Does an approved request; its body is JSON."""

    @property
    def name(self) -> str:
        """As the policy and approvals write it."""
        return f"{self.method} {self.path}"


ACTIONS: Final = web.AppKey("actions", dict[str, Route])


def reads(
    path: str,
    handler: Callable[[Call, Q], Awaitable[Reply]],
    query: type[Q],
    *,
    scope: Scope,
    answer: Any,
) -> Route:
    """GET: the handler is given its query, read strictly."""

    async def handle(request: web.Request, caller: Caller) -> web.StreamResponse:
        call, asked = Call(request, request.app[SERVICES], caller), read_query(request, query)
        if caller.reach is Reach.OWN:
            await check_query(call.services.db, caller, asked)
        return respond(await handler(call, asked))

    return Route("GET", path, scope, handle, query=query, answer=answer, handler=handler)


def writes(
    path: str,
    handler: Callable[[Call, B], Awaitable[Reply]],
    body: type[B],
    *,
    scope: Scope,
    answer: Any,
    query: type[Struct] = NoQuery,
    limit: int = BODY_BYTES,
    keyed: Key = Key.KEPT,
    shown_once: str | None = None,
    second_person: Callable[[Call, B], Awaitable[str | None]] | None = None,
) -> Route:
    """POST: the handler is given its body, read strictly, of at most `limit` bytes; a query it reads itself.

    `second_person` says, in a line for people, what another must approve first; None: nothing. `shown_once` is a field of the
    answer that is shown once: whoever repeats the key finds it null.
    """
    decoder = Decoder(body)

    async def handle(request: web.Request, caller: Caller) -> web.StreamResponse:
        read_query(request, query)
        raw = await read_json_body(request, limit)
        try:
            said = decoder.decode(raw or b"{}")
        except Malformed as error:
            raise Problem(_STATUS.get(error.code, 400), error.code, error.detail) from error
        call = Call(request, request.app[SERVICES], caller)
        if caller.reach is Reach.OWN:
            await check_body(call.services.db, caller, said)
        if keyed in (Key.KEPT, Key.MONEY) and (key := call.given_key()) is not None:
            do = partial(_done, call, said)
            action = (f"POST {path}", sorted(call.path.items()), msgspec.to_builtins(said))
            return respond(
                await once(call.services.db, key, action, do, keep=keyed is Key.MONEY, secret=shown_once)
            )
        return respond(await _done(call, said))

    async def _done(call: Call, said: B) -> Reply:
        if second_person is not None and call.caller.role is not Role.DEVELOPER:
            summary = await second_person(call, said)
            if summary is not None and (waiting := await _wait(call, said, summary)) is not None:
                return Reply(waiting, 202)
        return await handler(call, said)

    async def again(call: Call, raw: bytes) -> Reply:
        return await handler(call, decoder.decode(raw))

    async def _wait(call: Call, said: object, summary: str) -> WaitingAnswer | None:
        return await ask(
            call.services,
            call.caller,
            key=call.key(),
            action=f"POST {path}",
            path=dict(call.path),
            said=said,
            summary=summary,
        )

    redo = again if second_person is not None else None
    return Route(
        "POST",
        path,
        scope,
        handle,
        body=body,
        query=query,
        answer=answer,
        handler=handler,
        keyed=keyed,
        second_person=second_person,
        again=redo,
    )


def made(body: object, *, new: bool) -> Reply:
    """201 for what was made now, 200 for what the same key has made before."""
    return Reply(body, 201) if new else Reply(body, 200, REPLAYED)


def respond(reply: Reply) -> web.Response:
    """The HTTP answer of a success."""
    return web.Response(
        status=reply.status,
        body=msgspec.json.encode(reply.body),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **reply.headers},
    )


def read_query(request: web.Request, query: type[Q]) -> Q:
    """The query string as a struct. Errors: Problem 400 for an unknown, repeated or unreadable parameter."""
    given = request.query
    if len(given) != len(set(given)):
        raise Problem(400, "repeated_parameter", "a query parameter comes twice")
    if any("\x00" in value for value in given.values()):
        raise Problem(400, "invalid_parameter", "a query parameter has a NUL character")
    try:
        return msgspec.convert(dict(given), query, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, "invalid_parameter", str(error)) from error

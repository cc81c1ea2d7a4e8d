"""Users: who owns wallets and buys credits."""

from datetime import datetime
from uuid import UUID

import msgspec

from domain.gstin import STATES, BadGstin, state_of_gstin
from sql import accounts
from sql.ids import uuid7
from streams.events import Reference
from web.calls import Call, made
from web.problems import Problem, key_conflict, not_found
from web.replies import Reply
from web.services import request_hash
from web.shapes import Answer, Body, Email, Gstin, NoQuery, Phone, StateCode, Text


class NewUser(Body, frozen=True):
    """POST /v1/users. `state_code` or `gstin` says where a purchase is taxed."""

    external_id: Reference
    name: Text | None = None
    email: Email | None = None
    phone: Phone | None = None
    state_code: StateCode | None = None
    gstin: Gstin | None = None


class UserAnswer(Answer, frozen=True):
    """A user."""

    id: UUID
    external_id: str
    name: str | None
    email: str | None
    phone: str | None
    state_code: str | None
    gstin: str | None
    created_at: datetime


async def create_user(call: Call, body: NewUser) -> Reply:
    """POST /v1/users: once per Idempotency-Key, and per external id."""
    if body.state_code is not None and body.state_code not in STATES:
        raise Problem(422, "unknown_state", f"no State has the code {body.state_code}")
    if body.gstin is not None:
        try:
            state_of_gstin(body.gstin)
        except BadGstin as error:
            raise Problem(422, "invalid_gstin", str(error)) from error
    said = msgspec.structs.asdict(body)
    outcome, user_id = await accounts.create_user(
        call.services.db, call.key(), request_hash("user", said), uuid7(), **said
    )
    if outcome == "conflict":
        raise key_conflict()
    if outcome == "taken":
        raise Problem(
            409, "external_id_taken", "another request created a user of this external id", id=user_id
        )
    assert user_id is not None
    user = await accounts.get_user(call.services.db, user_id)
    return made(msgspec.convert(user, UserAnswer, from_attributes=True), new=outcome == "created")


async def get_user(call: Call, _: NoQuery) -> Reply:
    """GET /v1/users/{id}."""
    user = await accounts.get_user(call.services.db, call.uuid("id", "user"))
    if user is None:
        raise not_found("user")
    return Reply(msgspec.convert(user, UserAnswer, from_attributes=True))

"""Users: who owns wallets and buys credits."""

import msgspec

from domain.gstin import STATES, BadGstin, state_of_gstin
from sql import accounts
from sql.ids import uuid7
from web.calls import Call, Reply
from web.problems import Problem, key_conflict, not_found
from web.services import request_hash
from web.shapes import NewUser, NoQuery, UserAnswer


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
    return Reply(
        msgspec.convert(user, UserAnswer, from_attributes=True), 201 if outcome == "created" else 200
    )


async def get_user(call: Call, _: NoQuery) -> Reply:
    """GET /v1/users/{id}."""
    user = await accounts.get_user(call.services.db, call.uuid("id", "user"))
    if user is None:
        raise not_found("user")
    return Reply(msgspec.convert(user, UserAnswer, from_attributes=True))

"""Publishers: what a service that publishes straight onto wallet.debit may forget."""

from uuid import UUID

from sql import publishers
from web.calls import Call
from web.problems import not_found
from web.replies import Reply
from web.shapes import Answer, NoQuery

TOPIC = "wallet.debit"


class WatermarkAnswer(Answer, frozen=True):
    """Everything up to `covered_seq` of this partition has its outcome."""

    partition: int
    covered_seq: int


class Watermarks(Answer, frozen=True):
    """What a publisher may forget."""

    publisher: str
    session: UUID
    items: list[WatermarkAnswer]


async def get_watermarks(call: Call, _: NoQuery) -> Reply:
    """GET /v1/publishers/{name}/sessions/{session}/watermarks; a session nobody has seen covers nothing."""
    name = call.request.match_info["name"]
    session: UUID = call.uuid("session", "session")
    if "\x00" in name:
        raise not_found("publisher")
    covered = await publishers.watermarks(call.services.db, name, str(session), TOPIC)
    items = [WatermarkAnswer(partition=p, covered_seq=seq) for p, seq in sorted(covered.items())]
    return Reply(Watermarks(publisher=name, session=session, items=items))

"""Dead letters: events that nothing could get through their agent, for people to read, replay and give up."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sql import queues
from sql.queues import DeadLetter
from web.calls import Call
from web.paging import PageQuery, Seq, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, NoQuery

Topic = Annotated[str, Meta(pattern="^[a-z]{1,32}\\.[a-z]{1,32}$")]
Why = Annotated[str, Meta(min_length=1, max_length=2000, description="kept in the audit log")]


class DeadLettersQuery(PageQuery, frozen=True):
    """A page of dead letters; the rest filters."""

    topic: Topic | None = None
    state: Literal["dead", "purged"] | None = None


class DeadLetterAnswer(Answer, frozen=True):
    """An item that died. `payload` holds the event as it came; `offset` is its record's in the partition."""

    id: int
    topic: str
    partition: int
    offset: int
    key: str
    payload: dict[str, Any]
    state: str
    attempt: int
    reason: str
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class DeadLettersPage(Answer, frozen=True):
    """The newest first."""

    items: list[DeadLetterAnswer]
    next: str | None


class DeedAnswer(Answer, frozen=True):
    """What somebody did to it."""

    actor: str
    action: str
    why: str | None
    at: datetime


class DeadLetterStory(Answer, frozen=True):
    """One item and what people did to it, the newest first."""

    letter: DeadLetterAnswer
    story: list[DeedAnswer]


class Decision(Body, frozen=True):
    """POST /v1/dead-letters/{id}/replay, …/purge."""

    why: Why


class ReplayMany(Body, frozen=True):
    """POST /v1/dead-letters/replay: the oldest dead ones of a topic."""

    topic: Topic
    why: Why
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class ReplayedAnswer(Answer, frozen=True):
    """Those that are tried again."""

    ids: list[int]


async def list_dead_letters(call: Call, query: DeadLettersQuery) -> Reply:
    """GET /v1/dead-letters."""
    found = await queues.get_dead_letters(
        call.services.db,
        limit=query.limit + 1,
        before=after(query, "dead_letters", Seq),
        topic=query.topic,
        state=query.state,
    )
    page, following = cut(found, query, "dead_letters", lambda letter: letter.id)
    return Reply(DeadLettersPage(items=[_answer(letter) for letter in page], next=following))


async def get_dead_letter(call: Call, query: NoQuery) -> Reply:
    """GET /v1/dead-letters/{id}."""
    return await _story(call, _id(call))


async def replay(call: Call, body: Decision) -> Reply:
    """POST /v1/dead-letters/{id}/replay: tried again at once, from the first attempt."""
    id = _id(call)
    done = await queues.replay_dead(call.services.db, [id], actor=call.caller.principal, why=body.why)
    if not done:
        await _refuse(call, id, "not_dead", "only a dead item is replayed")
    return await _story(call, id)


async def replay_many(call: Call, body: ReplayMany) -> Reply:
    """POST /v1/dead-letters/replay."""
    ids = await queues.get_dead_ids(call.services.db, body.topic, limit=body.limit)
    done = await queues.replay_dead(call.services.db, ids, actor=call.caller.principal, why=body.why)
    return Reply(ReplayedAnswer(ids=done))


async def purge(call: Call, body: Decision) -> Reply:
    """POST /v1/dead-letters/{id}/purge: nobody tries it again; the row stays."""
    id = _id(call)
    done = await queues.purge_dead(call.services.db, [id], actor=call.caller.principal, why=body.why)
    if not done:
        detail = "it is not dead, or a purchase that nobody was credited: replay it, or refund the payment"
        await _refuse(call, id, "not_purgeable", detail)
    return await _story(call, id)


def _id(call: Call) -> int:
    text = call.request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise not_found("dead_letter")
    return int(text)


async def _story(call: Call, id: int) -> Reply:
    letter = await queues.get_dead_letter(call.services.db, id)
    if letter is None or (
        letter.state not in ("dead", "purged") and letter.attempt == 0 and letter.error is None
    ):
        raise not_found("dead_letter")
    story = await queues.get_story(call.services.db, id)
    return Reply(
        DeadLetterStory(
            letter=_answer(letter), story=msgspec.convert(story, list[DeedAnswer], from_attributes=True)
        )
    )


async def _refuse(call: Call, id: int, code: str, detail: str) -> None:
    if await queues.get_dead_letter(call.services.db, id) is None:
        raise not_found("dead_letter")
    raise Problem(409, code, detail)


def _answer(letter: DeadLetter) -> DeadLetterAnswer:
    return msgspec.convert(letter, DeadLetterAnswer, from_attributes=True)

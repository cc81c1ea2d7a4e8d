"""What a user is told in the app, and what they wish to be told at all."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import notifications
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, NoQuery

Wishes = bool | Annotated[dict[str, bool], Meta(max_length=50)]


class NotificationsQuery(PageQuery, frozen=True):
    """A page of notifications."""


class NotificationAnswer(Answer, frozen=True):
    """A fact about the user's money; the words for its `kind` are the reader's."""

    id: UUID
    kind: str
    credits: int | None
    amount_paise: int | None
    payment_id: UUID | None
    wallet_id: UUID | None
    occurred_at: datetime
    created_at: datetime
    read_at: datetime | None


class NotificationsPage(Answer, frozen=True):
    """The newest first; `unread` counts all, not only these."""

    items: list[NotificationAnswer]
    unread: int
    next: str | None


class ReadBody(Body, frozen=True):
    """POST /v1/users/{id}/notifications/read."""

    ids: Annotated[list[UUID], Meta(min_length=1, max_length=200)]


class ReadAnswer(Answer, frozen=True):
    """How many of them were news, and how many are left."""

    marked: int
    unread: int


class Preferences(Body, frozen=True):
    """Per channel, all or nothing or by kind: `{"email": {"low_balance": false}}`. What is not said is wished for."""

    email: Wishes = True
    in_app: Wishes = True


class PreferencesAnswer(Answer, frozen=True):
    """As they stand."""

    email: Wishes = True
    in_app: Wishes = True


async def list_notifications(call: Call, query: NotificationsQuery) -> Reply:
    """GET /v1/users/{id}/notifications: newest first, by keyset."""
    user_id, db = call.uuid("id", "user"), call.services.db
    before = after(query, "notifications", UUID)
    rows = await notifications.list_notifications(db, user_id, after=before, limit=query.limit + 1)
    if not rows and await notifications.get_preferences(db, user_id) is None:
        raise not_found("user")
    page, following = cut(rows, query, "notifications", lambda row: row.id)
    return Reply(
        NotificationsPage(
            items=[msgspec.convert(row, NotificationAnswer, from_attributes=True) for row in page],
            unread=await notifications.count_unread(db, user_id),
            next=following,
        )
    )


async def mark_read(call: Call, body: ReadBody) -> Reply:
    """POST /v1/users/{id}/notifications/read: says it again without effect."""
    user_id, db = call.uuid("id", "user"), call.services.db
    marked = await notifications.mark_read(db, user_id, body.ids)
    return Reply(ReadAnswer(marked=marked, unread=await notifications.count_unread(db, user_id)))


async def get_preferences(call: Call, _: NoQuery) -> Reply:
    """GET /v1/users/{id}/preferences."""
    found = await notifications.get_preferences(call.services.db, call.uuid("id", "user"))
    if found is None:
        raise not_found("user")
    return Reply(msgspec.convert(found, PreferencesAnswer))


async def set_preferences(call: Call, body: Preferences) -> Reply:
    """POST /v1/users/{id}/preferences: replaces them; mails that wait and are no longer wished for are not sent."""
    wishes = {"email": body.email, "in_app": body.in_app}
    outcome = await notifications.set_preferences(call.services.db, call.uuid("id", "user"), wishes)
    if outcome == "unknown_user":
        raise not_found("user")
    if outcome == "malformed":
        raise Problem(422, "unknown_kind", "there is no such kind of notification")
    return Reply(msgspec.convert(wishes, PreferencesAnswer))

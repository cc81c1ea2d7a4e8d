"""What a user is told in the app, over HTTP: paged, read once, as they wish."""

from uuid import uuid4

from tests.web.conftest import Api, new_id


async def told(api: Api, user: str, count: int) -> None:
    """So many facts, as the notices' agent books them."""
    for _ in range(count):
        await api.admin.execute(
            "SELECT book_notices(ARRAY[$1::uuid], '{credits_added}', ARRAY[now()], ARRAY[$2::uuid], '{NULL}', '{5000}',"
            " '{50000}', '{payment}', ARRAY[$3])",
            user, uuid4(), str(uuid4()),
        )  # fmt: skip


async def test_notifications_are_paged_and_read_once(api: Api) -> None:
    user = await api.user()
    await told(api, user, 5)
    path = f"/v1/users/{user}/notifications"
    first = await api.get(f"{path}?limit=3")
    rest = await api.get(f"{path}?limit=3&cursor={first.body['next']}")
    assert (first.status, first.body["unread"], len(first.body["items"]), len(rest.body["items"])) == (
        200,
        5,
        3,
        2,
    )
    assert rest.body["next"] is None
    assert first.body["items"][0]["amount_paise"] == 50_000
    ids = [item["id"] for item in first.body["items"]]
    for marked in (3, 0):
        answer = await api.post(f"{path}/read", {"ids": ids})
        assert (answer.status, answer.body) == (200, {"marked": marked, "unread": 2})
    stranger = await api.user()
    assert (await api.post(f"/v1/users/{stranger}/notifications/read", {"ids": ids})).body["marked"] == 0


async def test_wishes_are_kept_and_wrong_ones_refused(api: Api) -> None:
    path = f"/v1/users/{await api.user()}/preferences"
    assert (await api.get(path)).body == {"email": True, "in_app": True}
    wishes = {"email": {"low_balance": False}, "in_app": True}
    assert (await api.post(path, wishes)).body == wishes
    assert (await api.get(path)).body == wishes
    for body, code in (
        ({"sms": True}, "invalid_request"),
        ({"email": "no"}, "invalid_request"),
        ({"email": {"jokes": True}}, "unknown_kind"),
    ):
        answer = await api.post(path, body)
        assert (answer.status, answer.code) == (422, code), body


async def test_nobody_has_no_notifications(api: Api) -> None:
    for path in (
        f"/v1/users/{new_id()}/notifications",
        f"/v1/users/{new_id()}/preferences",
        "/v1/users/x/notifications",
    ):
        assert (await api.get(path)).status == 404
    assert (await api.post(f"/v1/users/{new_id()}/preferences", {})).status == 404

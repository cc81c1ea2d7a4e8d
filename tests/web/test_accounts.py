"""Users, wallets, grants and holds over HTTP: once per key, paged by keyset, moved by the ledger alone."""

import asyncio

from tests.web.conftest import Api, new_id


async def test_a_user_is_created_once_per_key(api: Api) -> None:
    said = {"external_id": "u-1", "name": "Asha", "state_code": "29"}
    first = await api.post("/v1/users", said, Idempotency_Key="a")
    again = await api.post("/v1/users", said, Idempotency_Key="a")
    assert (first.status, again.status) == (201, 200)
    assert first.body == again.body
    assert await api.count("users") == 1
    other = await api.post("/v1/users", said | {"name": "Bina"}, Idempotency_Key="a")
    assert (other.status, other.code) == (409, "idempotency_key_conflict")
    taken = await api.post("/v1/users", said, Idempotency_Key="b")
    assert (taken.status, taken.code, taken.body["id"]) == (409, "external_id_taken", first.body["id"])
    later = await api.post("/v1/users", said | {"external_id": "u-2"}, Idempotency_Key="b")
    assert later.status == 201, "a refused creation must not use up its key"


async def test_twenty_creations_at_once_with_one_key_make_one_wallet(api: Api) -> None:
    owner = await api.user()
    sends = [api.post("/v1/wallets", {"owner_id": owner}, Idempotency_Key="same") for _ in range(20)]
    answers = await asyncio.gather(*sends)
    assert sorted(a.status for a in answers) == [200] * 19 + [201]
    assert len({a.body["id"] for a in answers}) == 1
    assert await api.count("wallets") == 1


async def test_a_wallet_that_cannot_be_is_refused(api: Api) -> None:
    for body, code in [
        ({"owner_id": "not-a-uuid"}, "invalid_request"),
        ({"owner_id": new_id()}, "unknown_owner"),
        ({"owner_id": new_id(), "balance": 5}, "invalid_request"),
        ({}, "invalid_request"),
    ]:
        answer = await api.post("/v1/wallets", body)
        assert (answer.status, answer.code) == (422, code), body
    assert await api.count("wallets") == 0
    assert await api.count("idempotency_keys") == 0


async def test_a_user_with_impossible_fields_is_refused(api: Api) -> None:
    for more, code in [
        ({"state_code": "99"}, "unknown_state"),
        ({"gstin": "29ABCDE1234F1Z0"}, "invalid_gstin"),
        ({"phone": "call me"}, "invalid_request"),
        ({"name": "a\x00b"}, "invalid_text"),
        ({"email": "nobody"}, "invalid_request"),
    ]:
        answer = await api.post("/v1/users", {"external_id": "u"} | more)
        assert (answer.status, answer.code) == (422, code), more
    assert await api.count("users") == 0


async def test_a_post_without_a_key_is_told_so(api: Api) -> None:
    answer = await api.post("/v1/users", {"external_id": "u"}, Idempotency_Key="")
    assert (answer.status, answer.code) == (400, "idempotency_key_required")
    bad = await api.post("/v1/users", {"external_id": "u"}, Idempotency_Key="a:b")
    assert (bad.status, bad.code) == (400, "idempotency_key_invalid")


async def test_transactions_are_paged_from_the_newest_without_gap_or_overlap(api: Api) -> None:
    wallet = await api.wallet()
    for number in range(7):
        body = {"credits": number + 1, "reason": "gift"}
        assert (await api.post(f"/v1/wallets/{wallet}/grants", body)).status == 201
    seen: list[int] = []
    path = f"/v1/wallets/{wallet}/transactions?limit=3"
    page = await api.get(path)
    while True:
        seen += [item["seq"] for item in page.body["items"]]
        if page.body["next"] is None:
            break
        await api.post(f"/v1/wallets/{wallet}/grants", {"credits": 1, "reason": "meanwhile"})
        page = await api.get(f"{path}&cursor={page.body['next']}")
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_page_can_show_the_lots_that_were_consumed(api: Api) -> None:
    wallet = await api.wallet(credits=100)
    hold = await api.post("/v1/holds", {"wallet_id": wallet, "credits": 40})
    await api.post(f"/v1/holds/{hold.body['hold_id']}/capture", {"credits": 30, "feature": "event.ticket"})
    page = await api.get(f"/v1/wallets/{wallet}/transactions?expand=lots&limit=1")
    (item,) = page.body["items"]
    assert (item["transaction_type"], [lot["credits"] for lot in item["lots"]]) == ("capture", [30])
    plain = await api.get(f"/v1/wallets/{wallet}/transactions?limit=1")
    assert plain.body["items"][0]["lots"] is None


async def test_a_hold_is_captured_in_part_and_the_rest_goes_back(api: Api) -> None:
    wallet = await api.wallet(credits=100)
    hold = await api.post("/v1/holds", {"wallet_id": wallet, "credits": 60, "reason": "ticket"})
    assert (hold.status, hold.body["available_credits"]) == (201, 40)
    hold_id = hold.body["hold_id"]
    captured = await api.post(f"/v1/holds/{hold_id}/capture", {"credits": 50})
    assert (captured.status, captured.body["available_credits"]) == (200, 50)
    again = await api.post(f"/v1/holds/{hold_id}/release")
    assert (again.status, again.code) == (409, "hold_not_open")
    found = await api.get(f"/v1/holds/{hold_id}")
    assert (found.body["state"], found.body["captured_credits"]) == ("captured", 50)
    stands = (await api.get(f"/v1/wallets/{wallet}")).body
    assert (stands["available_credits"], stands["locked_credits"]) == (50, 0)


async def test_a_402_stays_a_402_for_its_key_after_a_top_up(api: Api) -> None:
    wallet = await api.wallet(credits=10)
    said = {"wallet_id": wallet, "credits": 50}
    refused = await api.post("/v1/holds", said, Idempotency_Key="h")
    assert (refused.status, refused.code) == (402, "insufficient_credits")
    await api.post(f"/v1/wallets/{wallet}/grants", {"credits": 100, "reason": "top up"})
    assert (await api.post("/v1/holds", said, Idempotency_Key="h")).status == 402
    assert (await api.post("/v1/holds", said, Idempotency_Key="h2")).status == 201
    other = await api.post("/v1/holds", said | {"credits": 1}, Idempotency_Key="h")
    assert (other.status, other.code) == (409, "idempotency_key_conflict")


async def test_a_hold_repeated_is_answered_with_the_same_hold(api: Api) -> None:
    wallet = await api.wallet(credits=100)
    said = {"wallet_id": wallet, "credits": 30}
    answers = await asyncio.gather(*(api.post("/v1/holds", said, Idempotency_Key="h") for _ in range(10)))
    assert {a.status for a in answers} == {200, 201}
    assert len({a.body["hold_id"] for a in answers}) == 1
    assert (await api.get(f"/v1/wallets/{wallet}")).body["locked_credits"] == 30


async def test_what_is_not_there_is_a_404_that_says_what(api: Api) -> None:
    for path, code in [
        (f"/v1/wallets/{new_id()}", "unknown_wallet"),
        (f"/v1/wallets/{new_id()}/transactions", "unknown_wallet"),
        ("/v1/wallets/17", "unknown_wallet"),
        (f"/v1/users/{new_id()}", "unknown_user"),
        (f"/v1/holds/{new_id()}", "unknown_hold"),
        (f"/v1/payments/{new_id()}", "unknown_payment"),
        ("/v1/usage/never-sent", "unknown_usage"),
        ("/v1/aggregates/happiness", "unknown_metric"),
        ("/v2/users", "unknown_route"),
    ]:
        answer = await api.get(path)
        assert (answer.status, answer.code) == (404, code), path
    answer = await api.post("/v1/holds", {"wallet_id": new_id(), "credits": 1})
    assert (answer.status, answer.code) == (404, "unknown_wallet")
    assert await api.count("quarantine") == 0


async def test_the_same_key_cannot_move_credits_twice_under_another_command(api: Api) -> None:
    wallet = await api.wallet(credits=100)
    assert (
        await api.post("/v1/holds", {"wallet_id": wallet, "credits": 10}, Idempotency_Key="k")
    ).status == 201
    grant = await api.post(
        f"/v1/wallets/{wallet}/grants", {"credits": 10, "reason": "r"}, Idempotency_Key="k"
    )
    assert (grant.status, grant.code) == (409, "idempotency_key_conflict")

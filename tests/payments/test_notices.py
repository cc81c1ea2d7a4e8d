"""Whom a payment's trouble is told to: its user, once, on their own partition."""

import json

from .conftest import Shop
from .test_fraud import held

TOPIC = "notifications.billing"


def told(shop: Shop) -> list[tuple[int, str, str]]:
    """(partition, user, kind) of every notice that was published."""
    return [
        (message.partition, event["user_id"], event["kind"])
        for message in shop.kept.sent
        if message.topic == TOPIC
        for event in json.loads(message.value)["events"]
    ]


async def test_a_failed_payment_is_told_once_and_an_abandoned_one_is_not(shop: Shop) -> None:
    failed, dropped = await shop.order(), await shop.order()
    await shop.hear(
        shop.webhook(failed.order_id, "FAILED", "1"),
        shop.webhook(failed.order_id, "FAILED", "2"),
        shop.webhook(dropped.order_id, "USER_DROPPED", "3"),
    )
    await shop.settle()
    user = str(failed.user_id)
    assert told(shop) == [(shop.core.partition(user), user, "payment_failed")]


async def test_a_held_payment_is_told_once(shop: Shop) -> None:
    payment = await held(shop)
    user = str(payment.user_id)
    assert [one for one in told(shop) if one[2] == "payment_held"] == [
        (shop.core.partition(user), user, "payment_held")
    ]

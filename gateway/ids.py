"""Ids in paths and answers: only what has the right form is sent, only what was asked for is believed."""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import BadAnswer, BadRequest

_ORDER: Final = re.compile(r"[A-Za-z0-9_-]{3,45}")
_OTHER: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,249}")


def order_in_path(endpoint: str, order_id: str) -> str:
    """An order id fit for a path. Errors: BadRequest, and nothing is sent: the id may come from a webhook."""
    if _ORDER.fullmatch(order_id) is None:
        raise BadRequest(endpoint, "not an order id of Cashfree's form")
    return order_id


def id_in_path(endpoint: str, value: str) -> str:
    """Any other id fit for a path or a query. Errors: BadRequest."""
    if _OTHER.fullmatch(value) is None:
        raise BadRequest(endpoint, "not an id of Cashfree's form")
    return value


def same_id(endpoint: str, answered: str, asked: str) -> None:
    """Errors: BadAnswer if the answer is about something else than what was asked."""
    if answered != asked:
        raise BadAnswer(endpoint, f"asked for {asked}, was answered {answered}")

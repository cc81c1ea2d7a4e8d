"""The client's types are the API's: every field of an answer is there, of the same shape."""

from typing import Any

import msgspec
import pytest

from client import answers
from web import ledger_calls
from web.resources import (
    endpoints,
    holds,
    invoices,
    orders,
    payments,
    publishers,
    refunds,
    usage,
    users,
    wallets,
)

PAIRS: dict[Any, Any] = {
    answers.User: users.UserAnswer,
    answers.Wallet: wallets.WalletAnswer,
    answers.Consumption: wallets.ConsumptionAnswer,
    answers.Transaction: wallets.TransactionAnswer,
    answers.Posted: ledger_calls.PostedAnswer,
    answers.Hold: holds.HoldAnswer,
    answers.Outcome: usage.OutcomeAnswer,
    answers.UsageResult: usage.UsageResult,
    answers.UsageResults: usage.UsageResults,
    answers.UsageRecord: usage.UsageAnswer,
    answers.Pack: payments.PackAnswer,
    answers.Order: orders.OrderAnswer,
    answers.Attempt: payments.AttemptAnswer,
    answers.Payment: payments.PaymentAnswer,
    answers.Refund: refunds.RefundAnswer,
    answers.Invoice: invoices.InvoiceAnswer,
    answers.Endpoint: endpoints.EndpointAnswer,
    answers.Delivery: endpoints.DeliveryAnswer,
    answers.Replayed: endpoints.ReplayAnswer,
    answers.Watermark: publishers.WatermarkAnswer,
    answers.Watermarks: publishers.Watermarks,
}


def fields(type_: Any) -> dict[str, set[str]]:
    """Names and JSON types of a struct's fields."""
    (_,), components = msgspec.json.schema_components([type_])
    said = components[type_.__name__]["properties"]
    return {name: _kinds(schema) for name, schema in said.items()}


def _kinds(schema: dict[str, Any]) -> set[str]:
    if "anyOf" in schema:
        return set().union(*(_kinds(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return {"string"}
    return {"object" if "$ref" in schema else schema.get("type", "any") + schema.get("format", "")}


@pytest.mark.parametrize("ours", PAIRS, ids=lambda type_: type_.__name__)
def test_a_type_of_the_client_is_the_api_s(ours: Any) -> None:
    assert fields(ours) == fields(PAIRS[ours])

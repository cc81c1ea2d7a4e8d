"""JSON Schemas of every topic's messages, generated from the types into docs/events/.

`python -m streams.schema` writes them; `--check` only says what is stale, and exits 1 if anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from streams import events as ev
from streams import messages
from streams.messages import Inbox, Message, Producer, Slice, UsageBatch
from streams.topics import TOPICS

DIRECTORY = Path(__file__).resolve().parents[1] / "docs" / "events"
TOPIC_MESSAGES = tuple(sorted(TOPICS))
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate(topic: str) -> str:
    """The schema of `topic`'s messages, as the file holds it."""
    kind = messages.message_type(topic)
    (found,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    defs = {name: _plain(schema) for name, schema in components.items()}
    title = {
        "$schema": _DIALECT,
        "title": topic,
        "description": f"What a message on {topic} holds, version 1",
    }
    return json.dumps({**title, **found, "$defs": defs}, indent=2, sort_keys=True) + "\n"


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A type's title without the Python module, and its description in one line."""
    texts: dict[str, Any] = {
        name: " ".join(schema[name].replace("streams.events.", "").split())
        for name in ("title", "description")
        if name in schema
    }
    return {**schema, **texts}


def write() -> None:
    """Write every schema, and an index."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for topic in TOPIC_MESSAGES:
        (DIRECTORY / f"{topic}.json").write_text(generate(topic))


def stale() -> list[str]:
    """Files that are missing or differ from the types, or belong to no topic."""
    found = []
    for topic in TOPIC_MESSAGES:
        file = DIRECTORY / f"{topic}.json"
        if not file.exists() or file.read_text() != generate(topic):
            found.append(file.name)
    known = {f"{topic}.json" for topic in TOPIC_MESSAGES}
    return found + sorted(file.name for file in DIRECTORY.glob("*.json") if file.name not in known)


def examples() -> dict[str, Message]:
    """One full message of every topic: what the golden files of this version hold."""
    wallet, payment = "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b01", "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b02"
    user, community = "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b03", "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b04"
    inbox, at = "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b05", datetime(2026, 11, 23, 5, 0, 0, 250_000, tzinfo=UTC)
    minute = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)

    def sliced(topic: str, *events: ev.Event) -> Slice[ev.Event]:
        return Slice(
            v=1,
            producer=Producer(topic, 3, "commdesk"),
            incarnation=1,
            batch_no=42,
            prev_batch_no=41,
            events=list(events),
        )

    return {
        "webhook.processing": Inbox(
            v=1,
            events=[
                ev.WebhookReceived(
                    inbox_id=inbox,
                    event_type="PAYMENT_SUCCESS_WEBHOOK",
                    order_id="order_1",
                    received_at=at,
                    source_version="2025-01-01",
                    cf_payment_id="975672265",
                    status="SUCCESS",
                )
            ],
        ),
        "payment.processing": sliced(
            "webhook.processing",
            ev.PaymentSignal(
                order_id="order_1",
                inbox_id=inbox,
                kind="success",
                occurred_at=at,
                cf_payment_id="975672265",
                payment_group="upi",
            ),
        ),
        "fraud.detection": sliced(
            "payment.processing",
            ev.FraudSignal(
                payment_id=payment,
                entity_kind="device",
                entity="device-7",
                amount_paise=49_900,
                occurred_at=at,
            ),
        ),
        "wallet.credit": sliced(
            "fraud.detection",
            ev.CreditCommand(payment_id=payment, wallet_id=wallet, credits=499, occurred_at=at),
            ev.GrantCommand(
                id="welcome-1", wallet_id=wallet, credits=50, priority=10, occurred_at=at, reason="welcome"
            ),
        ),
        "wallet.debit": UsageBatch(
            v=1,
            session=inbox,
            seq=1,
            events=[
                ev.UsageEvent(
                    id="message-1",
                    wallet_id=wallet,
                    feature="chat.message",
                    credits=2,
                    community_id=community,
                    occurred_at=at,
                    metadata={"room": "general"},
                )
            ],
        ),
        "analytics.billing": sliced(
            "wallet.debit",
            ev.Delta(
                metric="credits_spent",
                dimension={"community": community, "feature": "chat.message"},
                minute=minute,
                count=1,
                credits=2,
                amount_paise=0,
            ),
        ),
        "invoice.generate": sliced("wallet.credit", ev.InvoiceDue(payment_id=payment, occurred_at=at)),
        "notifications.billing": sliced(
            "wallet.credit",
            ev.BillingNotice(
                user_id=user,
                kind="credits_added",
                occurred_at=at,
                payment_id=payment,
                wallet_id=wallet,
                credits=499,
                amount_paise=49_900,
            ),
        ),
        "refund.processing": sliced(
            "wallet.credit", ev.RefundDue(refund_id=inbox, payment_id=payment, occurred_at=at)
        ),
        "settlements.processing": sliced(
            "webhook.processing", ev.SettlementDue(settlement_id="77001", inbox_id=inbox, occurred_at=at)
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m streams.schema", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    if not parser.parse_args().check:
        write()
    for name in (found := stale()):
        print(f"stale: docs/events/{name}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

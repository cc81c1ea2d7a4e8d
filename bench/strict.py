"""`python -m bench.strict`: what strict reading costs at each untrusted door, in µs of CPU, beside the typed reading alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import msgspec

from bench.prepare import order_id
from bench.sender import body_of, body_template
from gateway import wire
from streams import messages
from streams.events import UsageEvent
from web.resources.orders import NewOrder
from web.strict import Decoder

EVENTS = 500
ROUNDS = 5


def cpu_us(call: Callable[[], object], times: int) -> float:
    """The best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            call()
        found.append((time.process_time() - began) / times * 1e6)
    return min(found)


def main() -> None:
    """A line for each door: as our own client writes, and as another's JSON (spaces, another order) comes."""
    order = NewOrder(user_id=uuid4(), wallet_id=uuid4(), pack_paise=50_000, metadata={"a": "b"})
    ours = msgspec.json.encode(order)
    spaced = json.dumps(json.loads(ours)).encode()
    strict, typed = Decoder(NewOrder), msgspec.json.Decoder(NewOrder)
    for name, raw in (("order, compact", ours), ("order, spaced", spaced)):
        show(
            name,
            len(raw),
            cpu_us(partial(strict.decode, raw), 10_000),
            cpu_us(partial(typed.decode, raw), 10_000),
        )

    wallet = str(uuid4())
    events = [
        messages.encode_usage(UsageEvent(id=f"e{i}", wallet_id=wallet, feature="chat.message", credits=3))
        for i in range(EVENTS)
    ]
    batch = messages.encode_usage_batch(str(uuid4()), 1, events)
    foreign = json.dumps(json.loads(batch)).encode()
    plain = msgspec.json.Decoder(messages.message_type("wallet.debit"))
    for name, raw in (
        ("usage event on the stream, compact", batch),
        ("usage event on the stream, spaced", foreign),
    ):
        strictly = cpu_us(partial(messages.decode, "wallet.debit", raw), 20) / EVENTS
        show(name, len(raw) // EVENTS, strictly, cpu_us(partial(plain.decode, raw), 20) / EVENTS)

    webhook = body_of(body_template(), 1, 1, 0.0)
    assert order_id(1).encode() in webhook
    show(
        "webhook, decimals",
        len(webhook),
        cpu_us(lambda: wire.decode(webhook), 5_000),
        cpu_us(lambda: json.loads(webhook), 5_000),
    )


def show(name: str, size: int, strict_us: float, plain_us: float) -> None:
    """One line."""
    print(f"{name:40} {size:5} bytes  {strict_us:6.2f} µs strict  {plain_us:6.2f} µs plain")


if __name__ == "__main__":
    main()

"""A writer that delivers nothing: the test does, so it may lose, double or reorder what was sent."""

from collections.abc import Sequence
from typing import Any

from agents.core import Outgoing
from streams import messages


class Kept:
    """What was sent, in order. `foreign` is what the database wrote otherwise than streams.events would: readers look at that
    twice, key by key, which costs them as much again.
    """

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.foreign: list[bytes] = []

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        self.sent += outgoing
        for message in outgoing:
            decoded = messages.decode(message.topic, message.value)
            if not isinstance(decoded, messages.Decoded) or messages.encode(decoded.message) != message.value:
                self.foreign.append(message.value)

    def of(self, topic: str) -> list[Outgoing]:
        return [message for message in self.sent if message.topic == topic]

    def events(self) -> list[dict[str, Any]]:
        """Each event that was sent, with its topic."""
        decoded = [messages.decode(message.topic, message.value) for message in self.sent]
        assert not any(isinstance(d, messages.BadEvent) for d in decoded)
        return [
            {"topic": message.topic, "event": event}
            for message, d in zip(self.sent, decoded, strict=True)
            for event in d.message.events  # type: ignore[union-attr]
        ]

"""How webhooks are to go wrong: for one payment exactly as told, or for all by chance from the seed."""

from __future__ import annotations

import random
from typing import Literal

import msgspec

Version = Literal["2022-09-01", "2023-08-01", "2025-01-01"]


class WebhookPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to the webhooks of one event.

    `duplicate` is the number of extra deliveries. `reorder` adds a random delay, so that later events
    overtake. `stale` signs with a timestamp of an hour ago. `amount_paise` makes the message lie about
    the amount.
    """

    delay_s: float = 0.0
    duplicate: int = 0
    two_versions: bool = False
    version: Version | None = None
    drop: bool = False
    reorder: bool = False
    bad_signature: bool = False
    old_secret: bool = False
    stale: bool = False
    ids: Literal["int", "text"] | None = None
    unknown_field: bool = False
    unknown_status: bool = False
    amount_paise: int | None = None


class WebhookChances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How likely each thing is for a webhook nobody planned, 0 to 1; `max_delay_s` is drawn evenly."""

    duplicate: float = 0.0
    two_versions: float = 0.0
    drop: float = 0.0
    reorder: float = 0.0
    bad_signature: float = 0.0
    old_secret: float = 0.0
    stale: float = 0.0
    max_delay_s: float = 0.0
    version: Version = "2025-01-01"
    reorder_window_s: float = 1.0

    def draw(self, source: random.Random) -> WebhookPlan:
        """One plan by these chances."""
        return WebhookPlan(
            delay_s=source.uniform(0, self.max_delay_s) if self.max_delay_s else 0.0,
            duplicate=int(source.random() < self.duplicate),
            two_versions=source.random() < self.two_versions,
            drop=source.random() < self.drop,
            reorder=source.random() < self.reorder,
            bad_signature=source.random() < self.bad_signature,
            old_secret=source.random() < self.old_secret,
            stale=source.random() < self.stale,
        )

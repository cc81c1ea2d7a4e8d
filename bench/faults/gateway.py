"""Faults of messages: what the gateway's webhooks and answers do in life, and events that services publish twice."""

import random
from collections.abc import AsyncIterator, Mapping
from typing import Final

from bench.faults.kinds import Kind, Scene, fault

USUAL: Final = {"duplicate": 0.03, "two_versions": 0.02, "reorder": 0.1, "reorder_window_s": 1.0}
"""What befalls webhooks on an ordinary day."""
ANSWERS: Final = (
    "502",
    "500",
    "reset",
    "429",
    "slow",
    "lag",
    "commit_then_timeout",
    "commit_then_500",
    "commit_then_reset",
)


def webhooks(name: str, **chances: float) -> Kind:
    """For a while, this happens to every webhook with these chances."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        await chance(scene, {**USUAL, **chances})
        try:
            yield ", ".join(f"{what} {share}" for what, share in chances.items())
        finally:
            await chance(scene, USUAL)

    return Kind("webhooks", name, inject, (3.0, 6.0), since="nothing", lane="messages")


async def chance(scene: Scene, chances: Mapping[str, float]) -> None:
    """Tell the simulator, which may be away just now."""
    await scene.load.web.simulate_surely("/sim/webhooks", chances)


@fault
async def bad_answers(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Half the gateway's answers fail, some of them after the work was done."""
    kind = source.choice(ANSWERS)
    rule = {"endpoint": "*", "kind": kind, "times": None, "probability": 0.5, "seconds": 2.0}
    await scene.load.web.simulate_surely("/sim/faults", rule)
    try:
        yield kind
    finally:
        await scene.load.web.simulate_surely("/sim/faults", None)


@fault
async def publish_twice(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Services publish most of their events twice."""
    before, scene.load.twice = scene.load.twice, 0.7
    try:
        yield "70 % of direct events"
    finally:
        scene.load.twice = before


KINDS: Final = (
    webhooks("duplicated", duplicate=0.8, two_versions=0.3),
    webhooks("reordered", reorder=0.9, reorder_window_s=5.0),
    webhooks("late", max_delay_s=8.0),
    webhooks("lost", drop=0.7),
    Kind("gateway", "bad answers", bad_answers, (3.0, 6.0), since="nothing", lane="messages"),
    Kind("services", "published twice", publish_twice, (3.0, 6.0), since="nothing", lane="messages"),
)

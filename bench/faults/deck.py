"""Every kind of fault that this machine allows."""

from typing import Final

from bench.faults import broker, clock, database, disks, gateway, network, processes, services
from bench.faults.kinds import Kind

DECK: Final[tuple[Kind, ...]] = (
    *processes.KINDS,
    *network.KINDS,
    *database.KINDS,
    *broker.KINDS,
    *disks.KINDS,
    *clock.KINDS,
    *gateway.KINDS,
    *services.KINDS,
)
LEFT_OUT: Final = [
    reason for kinds, reason in ((disks.KINDS, disks.REFUSAL), (clock.KINDS, clock.REFUSAL)) if not kinds
]
"""Why some are missing, in words."""

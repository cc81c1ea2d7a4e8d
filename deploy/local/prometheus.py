"""Prometheus' own programs (prometheus, promtool, amtool), from Debian's packages unpacked under `.local/`.

They check the rules, routes and dashboards in tests; in production Prometheus is somebody else's to run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local import debian

_PACKAGES = ("prometheus", "promtool", "prometheus-alertmanager", "libc6")
_WAY_OUT = "Only the tests of alerts and dashboards need them."


@dataclass(frozen=True, slots=True)
class Programs:
    """Where each is."""

    prometheus: Path
    promtool: Path
    amtool: Path


async def fetch(local: Path, report: Callable[[str], None]) -> Programs:
    """The programs; downloaded once, offline afterwards. Errors: ServerError with what to do instead."""
    root = await debian.unpacked(local, "prometheus", _PACKAGES, way_out=_WAY_OUT, report=report)
    folder = root / "usr" / "bin"
    return Programs(folder / "prometheus", folder / "promtool", folder / "amtool")

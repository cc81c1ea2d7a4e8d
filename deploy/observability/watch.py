"""A Prometheus of our own beside running processes, with the rules that production has, and what it says fires.

Tests and the fault runs cannot wait for rules that wait minutes: `hurried` writes them anew with each minute as a second,
in `for:`, in ranges and in offsets alike. Thresholds stay, so what measures an age in seconds is as patient as ever.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.local import prometheus
from deploy.local.ports import HOST, free_port
from deploy.local.process import Process
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT

RULES: Final = CHECKOUT / "deploy" / "observability" / "alerts.yaml"
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(?m)(^\s+for: |\[|\boffset )(\d+)([smhd])\b")


@dataclass(frozen=True, slots=True)
class Job:
    """What is scraped: addresses (host:port), and how often; an answer may take as long as the pause."""

    targets: Sequence[str]
    every_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires, since when its condition holds, and of what."""

    name: str
    since: datetime
    labels: tuple[tuple[str, str], ...]


def hurried(rules: str, *, factor: float = 60.0) -> str:
    """The text of a rule file with every duration divided by `factor`, none shorter than half a second."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _SECONDS[found[3]] / factor
        return f"{found[1]}{max(500, round(1000 * seconds))}ms"

    return _DURATION.sub(shorter, rules)


@asynccontextmanager
async def watching(
    jobs: Mapping[str, Job], directory: Path, *, rules: str | None = None
) -> AsyncIterator[str]:
    """A Prometheus over these jobs, its files in `directory`; yields its URL, stops at the end.

    `rules`: the text of its rule file, production's if None. Errors: ServerError where it cannot be had.
    """
    programs = await prometheus.fetch(LOCAL, print)
    file, port = directory / "alerts.yaml", free_port()
    file.write_text(RULES.read_text() if rules is None else rules)
    config = {
        "global": {"evaluation_interval": "500ms"},
        "rule_files": [str(file)],
        "scrape_configs": [
            {
                "job_name": name,
                "scrape_interval": f"{round(1000 * job.every_s)}ms",
                "scrape_timeout": f"{round(1000 * job.every_s)}ms",
                "static_configs": [{"targets": list(job.targets)}],
            }
            for name, job in jobs.items()
        ],
    }
    (directory / "prometheus.json").write_text(json.dumps(config))
    command = [str(programs.prometheus), f"--config.file={directory / 'prometheus.json'}"]
    command += [f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address={HOST}:{port}"]
    server = Process(
        "Prometheus",
        [*command, "--log.level=warn"],
        log=directory / "prometheus.out",
        env={"PATH": "/usr/bin:/bin"},
    )
    server.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.kill9()


async def firing(http: aiohttp.ClientSession, url: str) -> list[Alert]:
    """The alerts that fire now. Errors: aiohttp.ClientError while Prometheus starts."""
    async with http.get(f"{url}/api/v1/alerts") as answer:
        alerts: list[dict[str, Any]] = (await answer.json())["data"]["alerts"]
    return [
        Alert(
            alert["labels"]["alertname"],
            datetime.fromisoformat(alert["activeAt"]),
            tuple(sorted(alert["labels"].items())),
        )
        for alert in alerts
        if alert["state"] == "firing"
    ]

"""A real Prometheus that watches a house, with the rules that production has."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deploy.local import prometheus
from deploy.local.ports import HOST, free_port
from deploy.local.process import Process
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT

from .house import House

RULES = CHECKOUT / "deploy" / "observability" / "alerts.yaml"


@asynccontextmanager
async def scraping(house: House, directory: Path, *, impatient: bool = False) -> AsyncIterator[str]:
    """A Prometheus that scrapes the house every second; its address. `impatient`: no rule waits before it fires."""
    programs = await prometheus.fetch(LOCAL, print)
    jobs = {"commdesk-web": house.url, "commdesk-worker": house.metrics_url.removesuffix("/metrics")}
    rules = directory / "alerts.yaml"
    text = RULES.read_text()
    rules.write_text(re.sub(r"(?m)^        for: .*$", "        for: 1s", text) if impatient else text)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for job, url in jobs.items()
        ],
    }
    file, port = directory / "prometheus.json", free_port()
    file.write_text(json.dumps(config))
    command = [str(programs.prometheus), f"--config.file={file}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    command += [f"--web.listen-address={HOST}:{port}", "--log.level=warn"]
    server = Process("Prometheus", command, log=directory / "prometheus.out", env={"PATH": "/usr/bin:/bin"})
    server.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.kill9()


async def firing(house: House, url: str) -> set[str]:
    """The alerts that fire now."""
    async with house.http.get(f"{url}/api/v1/alerts") as answer:
        alerts: list[dict[str, Any]] = (await answer.json())["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

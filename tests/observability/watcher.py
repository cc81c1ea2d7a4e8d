"""A real Prometheus that watches a house, with the rules that production has."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.observability import watch
from deploy.observability.watch import Job

from .house import House


@asynccontextmanager
async def scraping(house: House, directory: Path, *, impatient: bool = False) -> AsyncIterator[str]:
    """A Prometheus that scrapes the house every second; its address. `impatient`: a rule's minute is a second."""
    jobs = {"commdesk-web": house.url, "commdesk-worker": house.metrics_url.removesuffix("/metrics")}
    scraped = {job: Job([url.removeprefix("http://")]) for job, url in jobs.items()}
    rules = watch.hurried(watch.RULES.read_text()) if impatient else None
    async with watch.watching(scraped, directory, rules=rules) as url:
        yield url


async def firing(house: House, url: str) -> set[str]:
    """The alerts that fire now."""
    return {alert.name for alert in await watch.firing(house.http, url)}

"""Marked personal data and secrets go through everything, also inside errors; no log, trace, metric or Sentry may have them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from bench.security.edge import Edge
from bench.security.house import House
from bench.security.payloads import inject
from bench.security.world import World, good, make_customer
from sql.bulk import bulk

EMAIL: Final = "canary.bird@canary-mail.example"
PHONE: Final = "9812345670"
CARD: Final = "4111111111111111"
BEARER: Final = "canary-bearer-token-0123456789"
VPA: Final = "canary-vpa@upi"
MARKS: Final = ("canary.bird", "canary-mail", PHONE, CARD, "4111 1111", BEARER, "canary-vpa")
IN_FIELDS: Final = {
    "e-mail": EMAIL,
    "phone": f"+91{PHONE}",
    "card": "4111 1111 1111 1111",
    "bearer": f"Bearer {BEARER}",
    "UPI": VPA,
}
SAID: Final = f"{EMAIL} +91{PHONE} 4111 1111 1111 1111 Bearer {BEARER} {VPA}"
DEADLINE_S: Final = 30.0

# A database that repeats in its error what it was given, as constraint violations do.
_TELLTALE: Final = """
CREATE FUNCTION telltale_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'cannot store {said}' USING DETAIL = 'Key (email)=({email}) of {phone}'; END $$;
CREATE TRIGGER telltale BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION telltale_{table}();
"""
_SILENT: Final = "DROP TRIGGER telltale ON {table}; DROP FUNCTION telltale_{table}();"


@dataclass(slots=True)
class Figures:
    """What leaked, as (where, what); sinks that heard nothing, which would prove nothing."""

    leaks: list[tuple[str, str]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    server_errors: int = 0
    wrong: list[str] = field(default_factory=list)


async def fly(house: House, edge: Edge, world: World, key: str) -> Figures:
    """Everything at once: fields, headers, paths, a payment, errors; then every sink is searched."""
    figures = Figures()
    has_worker = bool(house.servers.stream_url)
    told = await inject(edge, world, IN_FIELDS, tagged=False)
    figures.server_errors += told.server_errors
    figures.wrong += told.wrong
    user, wallet = await make_customer(edge, key, email=EMAIL, phone=PHONE)
    strange = {
        "Authorization": f"Bearer {BEARER}",
        "X-Request-Id": PHONE,
        "User-Agent": SAID,
        "Cookie": f"core_token={BEARER}",
    }
    for path in (f"/v1/users/{EMAIL}?phone={PHONE}", f"/v1/users/{user}?phone={PHONE}", f"/{CARD}/{EMAIL}"):
        for token in ("", key):
            await edge.get(
                path, headers=strange if not token else {**strange, "Authorization": f"Bearer {token}"}
            )
    await _pay(edge, house, user, wallet, key)
    async with _telltales(house, ("users", "payment_attempts") if has_worker else ("users",)):
        refused = await edge.post(
            "/v1/users",
            {"external_id": "x", "email": EMAIL, "phone": PHONE, "state_code": "29"},
            token=key,
            headers={"Idempotency-Key": CARD},
        )
        if refused.status != 500:
            figures.wrong.append(f"an error of the database was answered {refused.status}")
        if has_worker:
            await _pay(edge, house, user, wallet, key)
        await _heard(house, has_worker, figures)
    await asyncio.sleep(1.5)  # what is told in batches
    await search(house, edge, secrets_of(house, world, key), figures)
    return figures


def secrets_of(house: House, world: World, key: str) -> list[str]:
    """What the processes know or were sent, and must tell nobody."""
    urls = [
        house.servers.web_database_url,
        house.servers.worker_database_url,
        house.servers.redis_url,
        house.servers.stream_url,
    ]
    passwords = [unquote(urlsplit(url).password or "") for url in urls]
    tokens = [token.rpartition(".")[2] for token in world.tokens.values()]
    keys = [token.rpartition("_")[2] for token in (key, *world.tokens.values()) if token.startswith("cdk_")]
    return [secret for secret in (*house.webhook_secrets, *passwords, *tokens, *keys) if len(secret) >= 8]


async def search(house: House, edge: Edge, secrets: list[str], figures: Figures) -> None:
    """Look for every mark and secret in every sink."""
    sinks: dict[str, str] = {
        f"{name}'s log": text for name, text in house.logs().items() if name != "simulator"
    }
    sinks |= house.sinks.told()
    sinks["web's metrics"] = str((await edge.get("/metrics")).body)
    if house.servers.stream_url:
        async with edge.http.get(f"{house.url_of('metrics')}/metrics") as answer:
            sinks["the worker's metrics"] = await answer.text()
    figures.silent += [name for name, text in sinks.items() if not text]
    figures.leaks += found_in(sinks, (*MARKS, *secrets))


def found_in(sinks: Mapping[str, str], marks: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which mark is in which sink."""
    return [(name, mark) for name, text in sinks.items() for mark in marks if mark in text]


async def _pay(edge: Edge, house: House, user: str, wallet: str, key: str) -> None:
    """An order that is paid, and credited if there is somebody to credit it."""
    order = {"user_id": user, "wallet_id": wallet, "pack_paise": 50_000, "device_id": "d-1"}
    made = good(await edge.post("/v1/payments/orders", order, token=key)).body
    pay = f"{house.url_of('simulator')}/sim/orders/{made['order_id']}/pay"
    async with edge.http.post(pay, json={"outcome": "success", "instrument": VPA}) as answer:
        answer.raise_for_status()


async def _heard(house: House, has_worker: bool, figures: Figures) -> None:
    """Until the errors have reached Sentry."""
    services = ("web", "worker-w1") if has_worker else ("web",)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        text = house.sinks.told()["Sentry"]
        missing = [name for name in services if f'"server_name":"{name}"' not in text.replace('": "', '":"')]
        if not missing:
            return
        if time.monotonic() > deadline:
            figures.silent += [f"Sentry, of {name}" for name in missing]
            return
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _telltales(house: House, tables: tuple[str, ...]) -> AsyncIterator[None]:
    """Triggers that make the database tell, for the block."""
    async with bulk(house.servers.admin_database_url) as db:
        for table in tables:
            await db.run(_TELLTALE.format(said=SAID, email=EMAIL, phone=PHONE, table=table))
        yield
        for table in tables:
            await db.run(_SILENT.format(table=table))

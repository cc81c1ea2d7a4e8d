"""One run: the system is started, attacked at every door in turn, and its database, logs and memory are looked through."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.frame import machine
from bench.security import canaries, payloads, pressure, rbac, tokens, webhooks
from bench.security.door import Vector
from bench.security.edge import caller
from bench.security.forge import Forge
from bench.security.forgeries import forgeries
from bench.security.genuine import Genuine
from bench.security.house import CLIENT_ID, House, private
from bench.security.limiter import Limiter
from bench.security.report import Report
from bench.security.smuggling import slow, smuggled
from bench.security.world import make_service, make_world
from web.auth import Role

ADDRESSES: Final = {
    "rbac": "127.0.0.5",
    "tokens": "127.0.0.6",
    "payloads": "127.0.0.7",
    "canaries": "127.0.0.8",
}
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. The issue's figures are the defaults; a mini run is for the tests."""

    genuine_among: int = 200
    genuine_paced: int = 1200
    paced_per_s: float = 40.0
    copies: int = 1000
    slow_vectors: bool = True
    slow_connections: int = 500
    payloads: int = len(payloads.PAYLOADS)
    matrix: bool = True
    press: bool = True


async def run(seed: int, logs: Path, tell: Tell, size: Size = Size()) -> Report:
    """On private servers. Errors: ServerError if they do not start."""
    async with private(logs, tell) as house:
        return await attack(house, seed, tell, size)


async def attack(house: House, seed: int, tell: Tell, size: Size) -> Report:
    """Everything against one house."""
    began = time.monotonic()
    about = machine()
    report = Report({"seed": seed})
    forge, genuine = _forges(house, seed)
    five_hundreds = 0
    async with caller(house.url, address=ADDRESSES["rbac"]) as edge:
        world = await make_world(edge, house.issuer, house.rows)
        key = await make_service(edge, house.issuer, "canary")
        if size.matrix:
            tell("the matrix of routes, roles and objects")
            await rbac.settled(house.rows)
            matrix = await rbac.Matrix(house.url, edge.http, world).measure(
                lambda: rbac.counts(house.rows, rbac.WORKERS)
            )
            five_hundreds += matrix.server_errors
            report.wrong += matrix.violations
            report.figures |= {
                "rbac_cells": matrix.cells,
                "rbac_violations": len(matrix.violations),
                "rbac_route_coverage": round(matrix.coverage, 4),
            }
    tell("tokens")
    async with caller(house.url, address=ADDRESSES["tokens"]) as edge:
        told = await tokens.measure(edge, house.issuer)
        five_hundreds += told.server_errors
        report.wrong += told.misanswered
        report.figures |= {"jwt_attacks": told.jwt_attacks, "jwt_accepted": told.jwt_accepted}
    if size.press:
        tell("big bodies, bombs and slow connections")
        await genuine.pace(20, size.paced_per_s, "warm")
        pressed = await pressure.press(
            house, genuine, key, count=size.genuine_paced, per_s=size.paced_per_s, slow=size.slow_connections
        )
        five_hundreds += pressed.server_errors
        if pressed.slow_connections < size.slow_connections:
            report.wrong.append(f"only {pressed.slow_connections} slow connections stood at once")
        report.figures |= {
            "rss_before_mb": round(pressed.rss_before_mb, 1),
            "max_rss_mb": pressed.max_rss_mb,
            "p99_alone_ms": pressed.p99_alone_ms,
            "p99_attacked_ms": pressed.p99_attacked_ms,
            "max_attacked_ms": pressed.max_attacked_ms,
            "slow_connections": pressed.slow_connections,
        }
    vectors = _vectors(forge, house, seed, slow_too=size.slow_vectors)
    tell(f"{len(vectors)} forged webhooks, genuine ones among them")
    attacked, _ = await asyncio.gather(
        webhooks.attack(house.url, vectors, seed),
        genuine.pace(size.genuine_among, size.paced_per_s, "forged"),
    )
    tell(f"one webhook, {size.copies} times at once")
    replayed = await webhooks.replay(house.url, forge, size.copies)
    tell("texts that mean something elsewhere, in every field")
    async with caller(house.url, address=ADDRESSES["payloads"]) as edge:
        chosen = dict(list(payloads.PAYLOADS.items())[: size.payloads])
        injected = await payloads.inject(edge, world, chosen)
        await payloads.check_stored(house.rows, injected)
        page = await payloads.check_page(edge, world.tokens[Role.SUPPORT])
        five_hundreds += injected.server_errors
        report.wrong += [*injected.wrong, *page]
        report.figures |= {
            "text_fields": injected.fields,
            "payloads_sent": injected.calls,
            "payload_violations": len(injected.wrong) + len(page),
        }
    tell("limits, with Valkey and without")
    limited = await Limiter(house, seed).run()
    five_hundreds += limited.server_errors
    report.wrong += limited.wrong
    report.figures["limiter_bypass_ratio"] = round(limited.worst, 3)
    tell("canaries")
    async with caller(house.url, address=ADDRESSES["canaries"]) as edge:
        flown = await canaries.fly(house, edge, world, key)
        five_hundreds += flown.server_errors
        report.wrong += [f"leaked: {mark[:12]}… in {where}" for where, mark in flown.leaks]
        report.wrong += [f"heard nothing: {name}" for name in flown.silent] + flown.wrong
        report.figures["canary_leaks"] = len(flown.leaks)
    report.wrong += await _strangers(house)
    names = [name for name in ("web", "worker") if name in house.processes]
    report.wrong += payloads.check_logs(house.logs(), names)
    tell("judging")
    stored = await webhooks.inbox(house.rows)
    judged = webhooks.judge([attacked, replayed], stored, genuine.marks, genuine.statuses)
    report.wrong += judged.wrong
    report.figures |= {
        "vectors": judged.vectors,
        "forged_accepted": judged.forged_accepted,
        "genuine_sent": judged.genuine_sent,
        "genuine_accepted": judged.genuine_accepted,
        "unexpected_5xx": judged.unexpected_5xx + five_hundreds,
        "limiter_ratios": limited.ratios,
        "machine": about,
        "seconds": round(time.monotonic() - began, 1),
        "wrong": report.wrong,
    }
    return report


_LOGINS: Final = """
SELECT DISTINCT usename::text AS role FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


async def _strangers(house: House) -> list[str]:
    """Who is connected to the database, and is not one of our programs as itself."""
    expected = {"core_web", *(["core_worker"] if house.servers.stream_url else [])}
    found = {row["role"] for row in await house.rows(_LOGINS)}
    return (
        []
        if expected <= found <= expected | {"postgres"}
        else [f"connected to the database: {sorted(found)}"]
    )


def _forges(house: House, seed: int) -> tuple[Forge, Genuine]:
    secret, older = (text.encode() for text in house.webhook_secrets)
    now_ms = time.time_ns() // 1_000_000
    genuine = Genuine(house.url, Forge(secret, older, now_ms, f"g{seed}"))
    return Forge(secret, older, now_ms, f"f{seed}"), genuine


def _vectors(forge: Forge, house: House, seed: int, *, slow_too: bool) -> list[Vector]:
    chance = random.Random(seed)
    others = {name: chance.randbytes(16).hex().encode() for name in ("retired", "sandbox")}
    forge.now_ms = time.time_ns() // 1_000_000  # what is six minutes ahead must be so when it arrives
    found = [*forgeries(forge, **others, client_id=CLIENT_ID.encode()), *smuggled(forge)]
    return [*found, *slow(forge)] if slow_too else found

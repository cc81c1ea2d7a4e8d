"""The simulator as an aiohttp application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from gateway.simulator import checkout, control, doorman, more_control
from gateway.simulator.journal import Journal
from gateway.simulator.sim import SimConfig, Simulator

SIMULATOR: Final = web.AppKey("simulator", Simulator)


def make_app(config: SimConfig) -> web.Application:
    """Its three doors; webhooks are sent while it runs. The simulator itself is `app[SIMULATOR]`."""
    app = web.Application(client_max_size=1024 * 1024)
    sim = Simulator(config)
    app[SIMULATOR] = sim

    journal = Journal(sim, config.journal) if config.journal is not None else None
    if journal is not None:
        app.middlewares.append(journal.middleware())

    async def running(_: web.Application) -> AsyncIterator[None]:
        if journal is not None:
            journal.restore()
        await sim.start()
        yield
        await sim.stop()

    app.cleanup_ctx.append(running)
    app.router.add_get("/healthz", _healthy)
    doorman.add_routes(app, sim)
    checkout.add_routes(app, sim)
    control.add_routes(app, sim)
    more_control.add_routes(app, sim)
    return app


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})

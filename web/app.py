"""The application: its services opened and closed around it, its routes, its middleware."""

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gateway.client import open_client
from gateway.settings import GatewaySettings
from gateway.storage import open_storage
from sql import webhooks
from sql.db import Database, DatabaseSettings
from web.access import Access
from web.addresses import Proxies
from web.connections import Runner
from web.headers import protect
from web.inbox import INBOX, Inbox
from web.limits import Limits
from web.live import HUB, Hub
from web.middleware import around
from web.room import Room
from web.router import POLICY, add_routes
from web.services import SERVICES, Services
from web.settings import WebSettings
from web.throttle import open_throttle


def make_app(
    settings: WebSettings | None = None,
    gateway_settings: GatewaySettings | None = None,
    database_settings: DatabaseSettings | None = None,
) -> web.Application:
    """An application that opens its services when it starts; each setting not given is the environment's."""
    app = web.Application(middlewares=[around], client_max_size=0)
    add_routes(app)
    app.cleanup_ctx.append(
        _services(
            settings or WebSettings(),
            gateway_settings or GatewaySettings(),
            database_settings or DatabaseSettings(),
        )
    )
    app.on_response_prepare.append(_protect)
    app.on_shutdown.append(_drain)
    return app


def make_runner(app: web.Application, settings: WebSettings) -> web.AppRunner:
    """The server of an application."""
    return Runner(app, settings, lambda why: app[SERVICES].metrics.refused_connections.labels(why).inc())


def _services(
    settings: WebSettings, gateway_settings: GatewaySettings, database_settings: DatabaseSettings
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def opened(app: web.Application) -> AsyncIterator[None]:
        db = Database(database_settings)
        redis = gateway_settings.redis_url
        redis_url = None if redis is None else redis.get_secret_value()
        async with (
            open_client(gateway_settings) as gateway,
            open_storage() as storage,
            open_throttle(redis_url, processes=settings.web_processes) as throttle,
        ):
            access = Access(settings, db, POLICY.scopes_of)
            services = Services(
                settings,
                gateway_settings,
                db,
                gateway,
                storage,
                throttle,
                access,
                Proxies(settings.web_trusted_proxies, settings.web_forwarded_header),
                Limits.of(settings),
                Room(settings.web_bodies_bytes),
            )
            app[SERVICES] = services
            app[INBOX] = Inbox(
                lambda items: webhooks.insert_webhooks(db, items), longest_wait_s=settings.web_shed_after_s
            )
            hub = app[HUB] = Hub(services)
            watching = asyncio.create_task(hub.run())
            yield
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await db.close()

    return opened


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """What goes out in parts has left before the middleware sees it: an export, a live stream."""
    protect(response.headers, tls=request.app[SERVICES].proxies.secure(request))


async def _drain(app: web.Application) -> None:
    """No new work: not ready any more, live streams end."""
    app[SERVICES].draining = True
    app[HUB].close()

"""The way out for outgoing webhooks: one request to an address that somebody else chose, and nowhere it must not go.

The name is looked up for every connection; one address that is not public and nothing is sent at all. The connection is
made to the very addresses that were checked, and looked at once more where its socket is made, so neither a literal
address nor a name that means another thing a moment later leads inside. No redirect is followed, no proxy asked, no cookie
kept, and of an answer little more than its status is read, in a bounded time.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agents.outgoing_settings import OutgoingSettings
from domain.outgoing import BadAddress, BadUrl, check_address, check_url
from sql.outgoing import Outcome

MAX_ANSWER_BYTES: Final = 4096
"""Of an answer's body; beyond, the connection is closed."""
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. `error` is a code, without a word of the receiver's."""

    outcome: Outcome
    status: int | None
    error: str | None
    took_ms: int


class SystemResolver(AbstractResolver):
    """The system's resolver on threads of its own: a name server that hangs keeps nothing else of this process waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="outgoing-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """Looks names up, and refuses those of which any address is not public. Errors: BadAddress, OSError."""

    def __init__(self, resolver: AbstractResolver, *, local: bool) -> None:
        self._resolver = resolver
        self._local = local

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            check_address(result["host"], local=self._local)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class Door:
    """One per worker; see `open_door`."""

    def __init__(self, session: aiohttp.ClientSession, settings: OutgoingSettings) -> None:
        self._session = session
        self._local = settings.outgoing_local
        self._timeout_s = settings.outgoing_timeout_s

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one request. Failing is an answer too, never an exception."""
        began = time.monotonic()

        def answer(outcome: Outcome, status: int | None, error: str | None) -> Answer:
            return Answer(outcome, status, error, round((time.monotonic() - began) * 1000))

        try:
            check_url(url, local=self._local)
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return answer(*await _judge(response))
        except (BadUrl, BadAddress):
            return answer("failed", None, "forbidden_address")
        except TimeoutError:
            return answer("failed", None, "timeout")
        except aiohttp.ClientConnectorCertificateError:
            return answer("failed", None, "tls")
        except aiohttp.ClientSSLError:
            return answer("failed", None, "tls")
        except (aiohttp.ClientConnectorDNSError, socket.gaierror):
            return answer("failed", None, "dns")
        except aiohttp.ClientConnectorError:
            return answer("failed", None, "connect")
        except (aiohttp.ClientError, OSError, ValueError):
            return answer("failed", None, "broken_answer")


async def _judge(response: aiohttp.ClientResponse) -> tuple[Outcome, int, str | None]:
    """2xx is taken, whatever it says; 410 wants no more."""
    status = response.status
    left = MAX_ANSWER_BYTES
    async for part in response.content.iter_any():
        left -= len(part)
        if left < 0:
            response.close()
            break
    if 200 <= status < 300:
        return "delivered", status, None
    if status == GONE:
        return "gone", status, "gone"
    return "failed", status, "redirect" if 300 <= status < 400 else f"http_{status}"


@asynccontextmanager
async def open_door(
    settings: OutgoingSettings, resolver: AbstractResolver | None = None
) -> AsyncIterator[Door]:
    """A door with connections of its own. `resolver`: who looks names up; the system unless given."""
    context = ssl.create_default_context(
        cafile=None if settings.outgoing_ca_file is None else str(settings.outgoing_ca_file)
    )
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=context,
        resolver=CheckedResolver(resolver or SystemResolver(), local=settings.outgoing_local),
        use_dns_cache=False,
        keepalive_timeout=15.0,
        socket_factory=_socket_factory(settings.outgoing_local),
    )
    async with aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=settings.outgoing_timeout_s),
        skip_auto_headers=("Accept-Encoding",),
    ) as session:
        yield Door(session, settings)


def _socket_factory(local: bool) -> Any:
    """Makes sockets only for addresses that may be reached: the last look, at what is really connected to."""

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, proto, _, address = info
        check_address(str(address[0]), local=local)
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    return make

"""The stream protocol, as thin as it can be: rstream's low-level client with the parts replaced that money
needs.

rstream opens, authenticates and frames requests. Ours are: delivery by whole chunks, credit returned by
hand, raw publishing, publish errors and metadata updates handed on, answers to ConsumerUpdate, StreamStats,
a close that does not linger, a listener that survives frames it does not know, and a heartbeat that notices
a dead peer.

Errors: `UnsupportedBroker`, `Refused` (the broker said no), ConnectionError (it is gone).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from rstream import exceptions, schema
from rstream.client import Client
from rstream.connection import Connection
from rstream.constants import OffsetType
from rstream.encoding import decode_frame

from streams.address import Address
from streams.chunks import Chunk, parse_deliver

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0
HEARTBEAT_S = 5
FRAME_MAX = 1 << 20
_MAX_INCOMING = 128 << 20
_OK = 1
_CONFIRM, _PUBLISH_ERROR, _DELIVER, _METADATA_UPDATE, _CLOSE, _CONSUMER_UPDATE = 3, 4, 8, 16, 22, 26
_CREDIT_FAILED, _STATS_REPLY, _CONSUMER_UPDATE_REPLY = 0x8009, 0x801C, 0x801A
_U32 = struct.Struct(">I")
_CREDIT = struct.Struct(">IHHBH")
_ENTRY = struct.Struct(">QI")
_PUBLISH_HEAD = struct.Struct(">IHHBI")
PUBLISH_OVERHEAD = _PUBLISH_HEAD.size
ENTRY_OVERHEAD = _ENTRY.size
_CODES = {
    2: "the stream does not exist",
    6: "the stream is not available",
    8: "authentication failed",
    12: "access to the virtual host was refused",
    15: "the broker failed",
    16: "access was refused",
    17: "a precondition failed",
    18: "the publisher does not exist",
    19: "there is no offset",
}


class UnsupportedBroker(Exception):
    """The broker is older than RabbitMQ 4 or speaks no streams."""


class Refused(Exception):
    """The broker understood and said no. `code` is the stream protocol's response code."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: {_CODES.get(code, 'refused')} (code {code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Stats:
    """Where a stream begins and ends, by chunks: first offset of its first, and of its last committed, chunk.

    Both are -1 for a stream that holds nothing.
    """

    first_chunk_id: int
    committed_chunk_id: int


class _Connection(Connection):
    async def open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    self.host, self.port, ssl=self._ssl_context, limit=4 << 20
                )
        except TimeoutError as error:
            raise ConnectionError(
                f"no answer from {self.host}:{self.port} in {CONNECT_TIMEOUT_S:g} s"
            ) from error


def _closed(error: RuntimeError) -> ConnectionError:
    """What uvloop says of a connection that was closed a moment ago, as the ConnectionError that it is.

    Errors: the error itself if it says something else.
    """
    if "closed" not in str(error):
        raise error
    return ConnectionResetError(str(error))


def _nothing(*_: object) -> None:
    return None


class Wire(Client):
    """One connection. Set the `on_*` callbacks before subscribing or publishing; they must not block.

    on_chunk(subscription id, chunk); on_confirm(publisher id, publishing ids); on_publish_error(publisher id,
    [(publishing id, code)]); on_consumer_update(subscription id, active, correlation id), to be answered with
    `answer_update`; on_stream_gone(stream): its subscriptions and publishers here are no more;
    on_closed(reason): called once, never after `abort` or `close`.
    """

    def __init__(self, address: Address, *, name: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        super().__init__(
            address.host,
            address.port,
            ssl_context=address.ssl_context(),
            frame_max=FRAME_MAX,
            heartbeat=heartbeat_s,
            connection_name=name,
        )
        self.address = address
        self.on_chunk: Callable[[int, Chunk], None] = _nothing
        self.on_confirm: Callable[[int, Sequence[int]], None] = _nothing
        self.on_publish_error: Callable[[int, list[tuple[int, int]]], None] = _nothing
        self.on_consumer_update: Callable[[int, bool, int], None] = _nothing
        self.on_stream_gone: Callable[[str], None] = _nothing
        self.on_closed: Callable[[Exception], None] = _nothing
        self._raw_waiters: dict[int, asyncio.Future[bytes]] = {}
        self._leaving = False

    # -- life

    @classmethod
    async def connect(cls, address: Address, *, name: str, heartbeat_s: int = HEARTBEAT_S) -> Wire:
        """Open and authenticate. Errors: UnsupportedBroker, Refused, ConnectionError or another OSError."""
        wire = cls(address, name=name, heartbeat_s=heartbeat_s)
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                await wire.start()
                await wire.authenticate(vhost=address.vhost, username=address.user, password=address.password)
        except exceptions.ServerError as error:
            wire.abort()
            raise Refused(f"{address.user} at {address}", error.code) from error
        except TimeoutError as error:
            wire.abort()
            raise ConnectionError(f"{address} did not answer") from error
        except BaseException:
            wire.abort()
            raise
        version = (wire.server_properties or {}).get("version", "unknown")
        if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 4:
            wire.abort()
            raise UnsupportedBroker(f"{address} is RabbitMQ {version}; version 4.0 or newer is needed")
        return wire

    async def start(self) -> None:
        self._conn = _Connection(self.host, self.port, self._ssl_context)
        await self._conn.open()
        self._last_heartbeat = time.monotonic()
        self.start_task("listener", self._listener())

    @property
    def alive(self) -> bool:
        return self._is_not_closed and self._conn is not None

    def abort(self) -> None:
        """Drop the connection now, in silence. The broker hands our partitions to others as soon
        as it sees it.
        """
        self._leaving = True
        self._drop(ConnectionAbortedError("the connection was given up"))

    async def close(self) -> None:
        """Tell the broker, then drop the connection."""
        self._leaving = True
        if self.alive:
            with contextlib.suppress(
                TimeoutError, ConnectionError, exceptions.ServerError, asyncio.TimeoutError
            ):
                async with asyncio.timeout(1.0):
                    await self.sync_request(
                        schema.Close(self._corr_id_seq.next(), code=_OK, reason="OK"),
                        resp_schema=schema.CloseResponse,
                    )
        self.abort()

    def _drop(self, reason: Exception) -> None:
        was_open, self._is_not_closed = self._is_not_closed, False
        if self._conn is not None and self._conn._writer is not None:
            self._conn._writer.transport.abort()
        for task in self._tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
        self._tasks.clear()
        waiters: list[asyncio.Future[Any]] = [*self._waiters.values(), *self._raw_waiters.values()]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(reason)
                waiter.exception()
        if was_open and not self._leaving:
            self.on_closed(reason)

    async def _heartbeat_sender(self) -> None:
        while self._heartbeat and self.alive:
            self._write(b"\x00\x00\x00\x04\x00\x17\x00\x01")
            await asyncio.sleep(self._heartbeat / 2)
            if time.monotonic() - self._last_heartbeat > 2 * self._heartbeat:
                await asyncio.sleep(0.5)
                if time.monotonic() - self._last_heartbeat > 2 * self._heartbeat:
                    self._drop(ConnectionError(f"{self.address} sent nothing for {2 * self._heartbeat} s"))

    # -- what comes in

    async def _listener(self) -> None:
        assert self._conn is not None
        assert self._conn._reader is not None
        read = self._conn._reader.readexactly
        try:
            while self._is_not_closed:
                size = int.from_bytes(await read(4), "big")
                if not 4 <= size <= _MAX_INCOMING:
                    raise ConnectionError(f"{self.address} sent a frame of {size} bytes")
                frame = await read(size)
                self._last_heartbeat = time.monotonic()
                self._dispatch(int.from_bytes(frame[:2], "big"), frame)
        except asyncio.IncompleteReadError:
            self._drop(ConnectionError(f"{self.address} closed the connection"))
        except (OSError, exceptions.ServerError) as error:
            self._drop(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("listener_failed", broker=str(self.address))
            self._drop(error)

    def _dispatch(self, key: int, frame: bytes) -> None:
        if key == _DELIVER:
            self.on_chunk(*parse_deliver(frame))
        elif key == _CONFIRM:
            count = _U32.unpack_from(frame, 5)[0]
            self.on_confirm(frame[4], struct.unpack_from(f">{count}Q", frame, 9))
        elif key == _CONSUMER_UPDATE:
            correlation, subscription, active = struct.unpack_from(">IBB", frame, 4)
            self.on_consumer_update(subscription, bool(active), correlation)
        elif key == _PUBLISH_ERROR:
            self.on_publish_error(frame[4], list(struct.iter_unpack(">QH", frame[9:])))
        elif key == _METADATA_UPDATE:
            size = int.from_bytes(frame[6:8], "big")
            self.on_stream_gone(frame[8 : 8 + size].decode())
        elif key == _STATS_REPLY:
            waiter = self._raw_waiters.pop(_U32.unpack_from(frame, 4)[0], None)
            if waiter is not None and not waiter.done():
                waiter.set_result(frame)
        elif key == _CLOSE:
            size = int.from_bytes(frame[10:12], "big")
            self._write(struct.pack(">IHHIH", 10, 0x8016, 1, _U32.unpack_from(frame, 4)[0], _OK))
            raise ConnectionError(f"{self.address} closed the connection: {frame[12 : 12 + size].decode()}")
        elif key == _CREDIT_FAILED:
            # credit for a consumer that is not active is taken all the same, says the broker's source
            log.debug("credit_refused", code=int.from_bytes(frame[4:6], "big"), subscription=frame[6])
        elif key != 23:
            self._resolve(frame)

    def _resolve(self, frame: bytes) -> None:
        try:
            answer = decode_frame(frame)
        except (ValueError, KeyError) as error:
            log.warning("frame_not_understood", key=frame[:2].hex(), error=str(error))
            return
        waiter = self._waiters.get((answer.key, answer.corr_id))
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    # -- what goes out

    def _write(self, frame: bytes) -> None:
        if self._is_not_closed and self._conn is not None and self._conn._writer is not None:
            try:
                self._conn._writer.write(frame)
            except RuntimeError as error:
                self._drop(_closed(error))

    async def drain(self) -> None:
        """Wait while the socket cannot take more."""
        if self._conn is not None and self._conn._writer is not None:
            await self._conn._writer.drain()

    def credit_now(self, subscription: int, chunks: int) -> None:
        """Let the broker send that many more chunks."""
        self._write(_CREDIT.pack(7, 9, 1, subscription, chunks))

    def publish_now(self, publisher: int, first_id: int, messages: Sequence[bytes]) -> None:
        """One Publish frame; the messages get the publishing ids `first_id`, `first_id` + 1 and so on."""
        size = PUBLISH_OVERHEAD - 4 + ENTRY_OVERHEAD * len(messages) + sum(map(len, messages))
        parts = [_PUBLISH_HEAD.pack(size, 2, 1, publisher, len(messages))]
        add, pack = parts.append, _ENTRY.pack
        for number, message in enumerate(messages, first_id):
            add(pack(number, len(message)))
            add(message)
        self._write(b"".join(parts))

    def answer_update(self, correlation: int, offset: int | None) -> None:
        """Answer a ConsumerUpdate: start at `offset`, or None for what a deactivation answers."""
        kind = 0 if offset is None else int(OffsetType.OFFSET)
        body = struct.pack(">HHIHH", _CONSUMER_UPDATE_REPLY, 1, correlation, _OK, kind)
        if offset is not None:
            body += struct.pack(">Q", offset)
        self._write(_U32.pack(len(body)) + body)

    async def request(self, what: str, asked: Any) -> Any:
        """Await a request made through rstream. Errors: Refused; ConnectionError when no answer comes."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await asked
        except exceptions.ServerError as error:
            raise Refused(what, error.code) from error
        except RuntimeError as error:
            raise _closed(error) from error
        except TimeoutError as error:
            raise ConnectionError(f"{what}: no answer in {REQUEST_TIMEOUT_S:g} s") from error

    async def follow(
        self,
        stream: str,
        subscription: int,
        *,
        credit: int,
        offset: int | OffsetType,
        group: str = "",
        topic: str = "",
    ) -> None:
        """Subscribe. With a `group`, as one of its single active consumers of super stream `topic`."""
        kind, value = (offset, None) if isinstance(offset, OffsetType) else (OffsetType.OFFSET, offset)
        properties = {"single-active-consumer": "true", "name": group, "super-stream": topic} if group else {}
        try:
            await self.request(
                f"reading {stream}",
                self.subscribe(
                    stream, subscription, schema.OffsetSpec.from_params(kind, value), credit, properties
                ),
            )
        except ConnectionError as error:
            # A broker that was frozen subscribes us when it wakes, under a number that we would give away again.
            self._drop(error)
            raise

    async def stats(self, stream: str) -> Stats:
        """StreamStats (key 28), for which rstream has no frame. Errors: Refused, ConnectionError."""
        correlation = self._corr_id_seq.next()
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._raw_waiters[correlation] = waiter
        name = stream.encode()
        body = struct.pack(">HHIh", 28, 1, correlation, len(name)) + name
        if not self.alive:
            raise ConnectionError(f"not connected to {self.address}")
        self._write(_U32.pack(len(body)) + body)
        frame: bytes = await self.request(f"statistics of {stream}", waiter)
        code, count = struct.unpack_from(">Hi", frame, 8)
        if code != _OK:
            raise Refused(f"statistics of {stream}", code)
        found, at = {}, 14
        for _ in range(count):
            size = int.from_bytes(frame[at : at + 2], "big")
            found[frame[at + 2 : at + 2 + size].decode()] = struct.unpack_from(">q", frame, at + 2 + size)[0]
            at += 10 + size
        return Stats(found["first_chunk_id"], found["committed_chunk_id"])

    async def ends(self, streams: Iterable[str]) -> dict[str, int]:
        """Offset after the last record of each stream, by reading its last chunk: 0 for an empty stream.

        Needs a connection that subscribes to nothing else. Errors: Refused, ConnectionError; never a guess.
        """
        names, found = list(streams), dict[str, int]()
        arrived: dict[int, asyncio.Future[int]] = {}

        def on_chunk(subscription: int, chunk: Chunk) -> None:
            if subscription in arrived and not arrived[subscription].done():
                arrived[subscription].set_result(chunk.end)

        self.on_chunk = on_chunk
        for start in range(0, len(names), 200):
            arrived.clear()
            part = names[start : start + 200]
            for subscription, stream in enumerate(part):
                if (await self.stats(stream)).committed_chunk_id < 0:
                    found[stream] = 0
                    continue
                arrived[subscription] = asyncio.get_running_loop().create_future()
                await self.follow(stream, subscription, credit=1, offset=OffsetType.LAST)
            for subscription, last in list(arrived.items()):
                found[part[subscription]] = await self.request(f"the end of {part[subscription]}", last)
                await self.request("leaving", self.unsubscribe(subscription))
        return found

"""The wire: messages both ways with RabbitMQ's own client, errors, statistics, chunks."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
import rstream
from hypothesis import given
from hypothesis import strategies as st

from streams import amqp
from streams.address import Address
from streams.batches import Record
from streams.chunks import Chunk, CorruptChunk, Unreadable, digest
from streams.link import Link, Outcome
from streams.transport.partition import to_records
from streams.wire import Refused, Wire
from tests.conftest import Broker
from tests.streams.conftest import until

STREAM = "wallet.debit-0"
text = st.text(max_size=40)


@given(
    key=st.none() | st.binary(max_size=300),
    value=st.none() | st.binary(max_size=600),
    headers=st.dictionaries(text.filter(lambda name: name != "key"), st.text(max_size=300), max_size=4),
)
def test_what_is_written_is_read_and_rstream_reads_it_too(
    key: bytes | None, value: bytes | None, headers: dict[str, str]
) -> None:
    raw = amqp.encode(key, value, headers)
    assert amqp.decode(raw) == (key, value, headers, False)
    message: Any = rstream.amqp_decoder(raw)
    assert message.body == value
    properties = message.application_properties or {}
    assert properties.get(b"key") == key
    assert {name.decode(): item.decode() for name, item in properties.items() if name != b"key"} == headers


@given(st.binary(max_size=200))
def test_no_bytes_make_the_message_reader_raise(raw: bytes) -> None:
    fields = amqp.decode(raw)
    assert not fields.malformed or fields.value == raw


MANY = b"\x7f\xff\xff\xff"
"""Two thousand million items: sixteen gigabytes before the first is looked for."""


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x53\x76\xd0\x00\x00\x00\x08" + MANY,  # a list
        b"\x00\x53\x77\xf0\x00\x00\x00\x08" + MANY + b"\x40",  # an array of nulls, which take no bytes
        b"\x00\x53\x74\xd1\x00\x00\x00\x08" + MANY,  # a map
        b"\x00\x53\x77\xc0\x0a\x01\xd0\x00\x00\x00\x08" + MANY,  # a list within one
        b"\x00\x80\x75\xd0\x00\x00\x00\x08" + MANY,  # behind a descriptor of another width
        b"\x00\x53\x74\xc1\x0d\x01\xa0\x0a\x00\x53\x77\xd0\x00\x00\x00\x08"
        + MANY,  # behind a name without a value
        b"\x00\x53\x77\xe0\x0d\x00\x00\x53\x77\xd0\x00\x00\x00\x08" + MANY,  # behind an array of nothing
    ],
)
def test_a_message_that_says_it_holds_more_than_it_does_takes_no_memory(raw: bytes) -> None:
    assert amqp.decode(raw).malformed
    assert memory_of(raw) < 1 << 16


CODES = [0x00, 0x53, 0x40, 0x77, 0x74, 0xA1, 0x01, 0x02, 0x08, 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0, 0xFF]


@given(
    st.sampled_from([b"", b"\x00\x53\x77", b"\x00\x53\x74\xc1", b"\x00\x53\x76\xd0\x00\x00\x00"]),
    st.lists(st.sampled_from(CODES), max_size=60),
)
def test_the_memory_for_a_message_is_bounded_by_its_size(start: bytes, codes: list[int]) -> None:
    assert memory_of(start + bytes(codes)) < 1 << 16


def memory_of(raw: bytes) -> int:
    """The most bytes that reading a message took."""
    tracemalloc.start()
    try:
        amqp.decode(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_other_clients_write_is_walked_to_its_end() -> None:
    message = rstream.AMQPMessage(
        body=b"v" * 300,
        application_properties={"key": "k", "n": 5, "names": ["a", "b"], "map": {"x": True, "y": None}},
    )
    fields = amqp.decode(bytes(message))
    assert (fields.key, fields.value, fields.malformed) == (b"k", b"v" * 300, False)
    assert fields.headers.keys() == {"n", "names", "map"}


def test_a_tombstone_is_not_an_empty_value() -> None:
    assert amqp.decode(amqp.encode(b"k", None)).value is None
    assert amqp.decode(amqp.encode(b"k", b"")).value == b""


def test_a_header_cannot_take_the_keys_place() -> None:
    with pytest.raises(ValueError, match="key"):
        amqp.encode(b"k", b"v", {"key": "other"})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (rstream.AMQPMessage(body=b"v"), (None, b"v", {}, False)),
        (
            rstream.AMQPMessage(body=b"v" * 300, application_properties={"key": "k"}),
            (b"k", b"v" * 300, {}, False),
        ),
        (
            rstream.AMQPMessage(body=b"v", application_properties={"key": b"\xff", "n": 3}),
            (b"\xff", b"v", {"n": "3"}, False),
        ),
        (rstream.AMQPMessage(value="text"), (None, b"text", {}, False)),
    ],
)
def test_messages_of_rstream_are_read(message: Any, expected: tuple[object, ...]) -> None:
    assert amqp.decode(bytes(message)) == expected


def test_what_is_no_amqp_is_kept_as_bytes_and_marked() -> None:
    for raw in (b"", b"{}", b"plain text", b"\x00\x53\x74\xc1\x05"):
        assert amqp.decode(raw) == (None, raw, {}, True)


# -- chunks


def chunk(entries: list[bytes], records: int, *, spoil: bool = False) -> Chunk:
    body = b"".join(entries)
    crc = zlib.crc32(body) ^ spoil
    header = struct.pack(">BbbHIqQQIIII", 0, 0x50, 0, len(entries), records, 7, 1, 100, crc, len(body), 0, 0)
    return Chunk(100, 100 + records, 7, len(entries), crc, b"\x00\x08\x00\x01" + header + body)


def entry(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def sub_batch(compression: int, packed: bytes, records: int) -> bytes:
    return struct.pack(">BHII", 0x80 | compression << 4, records, 99, len(packed)) + packed


def test_a_chunk_with_plain_and_gzipped_entries_is_read() -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(entry(b"b") + entry(b"c")) + packer.flush()
    entries = [entry(b"a"), sub_batch(1, packed, 2), sub_batch(0, entry(b"d"), 1), entry(b"")]
    assert chunk(entries, 5).messages() == [b"a", b"b", b"c", b"d", b""]


@pytest.mark.parametrize(
    ("compression", "packed", "why"),
    [
        (2, b"xyz", "snappy"),
        (4, b"xyz", "zstd"),
        (1, b"no gzip", "header"),
        (0, b"\x00\x00\x00\x09a", "cut short"),
    ],
)
def test_a_sub_batch_that_cannot_be_read_keeps_its_offsets_and_says_why(
    compression: int, packed: bytes, why: str
) -> None:
    found = chunk([entry(b"a"), sub_batch(compression, packed, 3), entry(b"z")], 5).messages()
    assert found[0] == b"a"
    assert found[4] == b"z"
    assert found[1:4] == [packed, b"", b""]
    for number, message in enumerate(found[1:4]):
        assert isinstance(message, Unreadable)
        (record,) = to_records(number, 7, [message])
        assert record == Record(number, 7, None, bytes(message), record.headers, True)
        assert why in record.headers["error"]


def test_a_wrong_checksum_is_an_error() -> None:
    with pytest.raises(CorruptChunk, match="checksum"):
        chunk([entry(b"a")], 1, spoil=True).messages()


def test_a_digest_tells_equal_messages_apart_by_when_they_were_stored() -> None:
    assert digest(1, b"a") == digest(1, b"a")
    assert len({digest(1, b"a"), digest(2, b"a"), digest(1, b"b")}) == 3


# -- the broker


def test_an_address_is_read_from_a_url_and_hides_its_password() -> None:
    address = Address.parse("rabbitmq-streams://me:se%2Fcret@broker:1234/a%2Fb", ca_file="/ca.pem")
    assert (address.host, address.port, address.user, address.password) == ("broker", 1234, "me", "se/cret")
    assert (address.vhost, address.tls) == ("a/b", True)
    assert "se/cret" not in repr(address) + str(address)
    for url, why in (
        ("amqp://x", "starts with"),
        ("rabbitmq-stream://", "no host"),
        ("rabbitmq-stream://h:x", "port"),
    ):
        with pytest.raises(ValueError, match=why):
            Address.parse(url)


async def test_statistics_and_ends_are_exact_or_an_error(topics: Broker, link: Link) -> None:
    wire = await Wire.connect(Address.parse(topics.url), name="test")
    assert (await wire.stats(STREAM)).committed_chunk_id == -1
    ticket = await link.send(STREAM, [amqp.encode(b"k", b"v")] * 7)
    await ticket.settled
    assert await wire.ends([STREAM, "wallet.debit-1"]) == {STREAM: 7, "wallet.debit-1": 0}
    with pytest.raises(Refused, match="access was refused"):
        await wire.stats("no.such.stream")
    with pytest.raises(Refused, match="access was refused"):
        await wire.ends([STREAM, "no.such.stream"])
    wire.abort()
    with pytest.raises(ConnectionError):
        await wire.stats(STREAM)


async def test_wrong_credentials_and_a_wrong_virtual_host_are_refused(topics: Broker) -> None:
    right = Address.parse(topics.url)
    with pytest.raises(Refused, match="authentication failed"):
        await Wire.connect(Address(right.host, right.port, right.user, "wrong", right.vhost), name="test")
    with pytest.raises(Refused, match="virtual host"):
        await Wire.connect(
            Address(right.host, right.port, right.user, right.password, "nowhere"), name="test"
        )


async def test_publishing_to_no_stream_is_refused_and_too_much_is_an_error(
    topics: Broker, link: Link
) -> None:
    async with Link(Address.parse(topics.root_url), name="test") as root:
        with pytest.raises(Refused, match="does not exist"):
            await root.send("no.such.stream", [b"x"])
    with pytest.raises(ValueError, match="the most is"):
        await link.send(STREAM, [b"x" * (1 << 20)])
    ticket = await link.send(STREAM, [amqp.encode(b"k", b"x" * 900_000)] * 3)
    await ticket.settled
    assert ticket.confirmed


async def test_a_publish_error_is_the_messages_outcome(link: Link) -> None:
    first = await link.send(STREAM, [b"x"])
    await first.settled
    link._on_publish_error(link._publishers[STREAM].id, [])
    late = await link.send(STREAM, [b"a", b"b", b"c"])
    link._on_publish_error(link._publishers[STREAM].id, [(late.first_id + 1, 18)])
    await late.settled
    assert late.outcomes() == [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.CONFIRMED]
    assert not late.confirmed


async def test_messages_of_a_deleted_stream_are_unknown_and_the_link_goes_on(
    topics: Broker, link: Link
) -> None:
    admin = await Wire.connect(Address.parse(topics.admin_url), name="test")
    ticket = await link.send(STREAM, [b"x"])
    await ticket.settled
    await admin.delete_stream(STREAM)
    await until(lambda: STREAM not in link._publishers)
    with pytest.raises(Refused):
        await link.send(STREAM, [b"x"])
    other = await link.send("wallet.debit-1", [b"x"])
    await other.settled
    assert other.confirmed
    await admin.close()


async def test_a_lost_connection_settles_what_is_under_way_as_unknown_and_comes_back(link: Link) -> None:
    ticket = await link.send(STREAM, [b"x"])
    await ticket.settled
    assert link._wire is not None
    lost = await link.send(STREAM, [b"y"] * 10)
    link._wire._drop(ConnectionError("pulled out"))
    await lost.settled
    assert lost.outcomes() == [Outcome.UNKNOWN] * 10
    again = await link.send(STREAM, [b"z"])
    await again.settled
    assert again.confirmed
    assert link.reconnects == 1


async def test_a_link_whose_confirms_stop_is_built_anew(topics: Broker) -> None:
    async with Link(Address.parse(topics.url), name="test", confirm_timeout_s=0.4) as link:
        ticket = await link.send(STREAM, [b"x"])
        await ticket.settled
        assert link._wire is not None
        link._wire.on_confirm = lambda *_: None
        silent = await link.send(STREAM, [b"x"])
        await silent.settled
        assert silent.lost
        again = await link.send(STREAM, [b"x"])
        await again.settled
        assert again.confirmed


async def test_unconfirmed_messages_are_bounded(topics: Broker) -> None:
    async with Link(Address.parse(topics.url), name="test", max_unconfirmed=1000) as link:
        most = 0
        for _ in range(100):
            await link.send(STREAM, [b"x"] * 100)
            most = max(most, link.unconfirmed)
        await link.flush()
        assert most <= 1100
        assert link.unconfirmed == 0


async def test_a_flush_does_not_wait_for_what_comes_later(link: Link) -> None:
    stop = asyncio.Event()

    async def noise() -> None:
        while not stop.is_set():
            await link.send("wallet.debit-1", [b"x"] * 50)
            await asyncio.sleep(0)

    task = asyncio.create_task(noise())
    await asyncio.sleep(0.1)
    ticket = await link.send(STREAM, [b"x"])
    await asyncio.wait_for(link.flush(), 3)
    assert ticket.settled.done()
    stop.set()
    await task


async def test_rstreams_producer_is_read_and_rstreams_consumer_reads_us(topics: Broker, link: Link) -> None:
    address = Address.parse(topics.root_url)
    account: dict[str, Any] = {"username": address.user, "password": address.password, "vhost": address.vhost}
    async with rstream.Producer(address.host, address.port, **account) as producer:
        await producer.send_wait(
            STREAM, rstream.AMQPMessage(body=b"theirs", application_properties={"key": "w"})
        )
    await (await link.send(STREAM, [amqp.encode(b"w", b"ours", {"publisher": "chat"})])).settled

    got: list[tuple[dict[bytes, bytes], bytes]] = []
    consumer = rstream.Consumer(address.host, address.port, **account)
    await consumer.start()

    async def on_message(message: Any, _: object) -> None:
        got.append((message.application_properties, message.body))

    first = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST)
    await consumer.subscribe(STREAM, on_message, decoder=rstream.amqp_decoder, offset_specification=first)
    await until(lambda: len(got) == 2)
    await consumer.close()
    assert got == [({b"key": b"w"}, b"theirs"), ({b"key": b"w", b"publisher": b"chat"}, b"ours")]

    ours: list[Chunk] = []
    wire = await Wire.connect(Address.parse(topics.url), name="test")
    wire.on_chunk = lambda _, chunk: ours.append(chunk)
    await wire.follow(STREAM, 0, credit=10, offset=0)
    await until(lambda: sum(chunk.end - chunk.first for chunk in ours) == 2)
    values = [amqp.decode(raw) for chunk in ours for raw in chunk.messages()]
    assert values == [(b"w", b"theirs", {}, False), (b"w", b"ours", {"publisher": "chat"}, False)]
    await wire.close()


async def test_a_stream_that_is_not_available_yet_is_waited_for(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, refusals = Wire.declare_publisher, 0

    async def unavailable(wire: Wire, stream: str, reference: str | None, number: int) -> None:
        nonlocal refusals
        refusals += 1
        if refusals < 4:
            raise rstream.exceptions.StreamNotAvailable
        await honest(wire, stream, reference, number)

    monkeypatch.setattr(Wire, "declare_publisher", unavailable)
    ticket = await link.send(STREAM, [b"x"])
    await ticket.settled
    assert ticket.confirmed
    refusals = -1000
    with pytest.raises(ConnectionError, match=r"within 0\.3 s"):
        await link.send("wallet.debit-1", [b"x"], wait_s=0.3)

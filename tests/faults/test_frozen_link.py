"""A broker that freezes in the middle of a request takes it up when it wakes: what was given up then is done after all."""

import asyncio
import signal

import pytest

from deploy.local.private import private_rabbitmq
from streams import amqp
from streams.address import Address
from streams.link import Link
from streams.topics import TOPICS, declare


async def test_a_stream_whose_declaration_was_given_up_can_be_published_to_when_the_broker_wakes() -> None:
    async with private_rabbitmq() as node:
        await declare(node.stream_url("core_admin"), 3, topics=[TOPICS["wallet.debit"]])
        link = Link(Address.parse(node.stream_url("core_worker")), name="test")
        await link.start()
        message = amqp.encode(b"key", b"value", {})
        await (await link.send("wallet.debit-0", [message])).settled
        node.process.send(signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionError):
                await link.send("wallet.debit-1", [message], wait_s=0.5)
        finally:
            node.process.send(signal.SIGCONT)
        await asyncio.sleep(0.5)
        for stream in ("wallet.debit-1", "wallet.debit-2"):
            ticket = await link.send(stream, [message], wait_s=10)
            await asyncio.wait_for(ticket.settled, 10)
            assert ticket.confirmed
        assert link.reconnects == 0
        await link.stop()

"""Text of the gateway's and of customers' in what the database emits; that all of it is our own writing, the fixture asserts."""

from streams import messages
from streams.events import FraudSignal

from .conftest import Shop
from .velocity import verified

DEVICE = 'a "quoted" \\ name, ü and \t'


async def test_an_entity_of_any_characters_reaches_its_windows_as_it_is(shop: Shop) -> None:
    await verified(shop, device_id=DEVICE)
    sent = [messages.decode(m.topic, m.value) for m in shop.kept.sent if m.topic == "fraud.detection"]
    events = [e for d in sent if isinstance(d, messages.Decoded) for e in d.message.events]
    assert [e.entity for e in events if isinstance(e, FraudSignal) and e.entity_kind == "device"] == [DEVICE]
    await shop.settle()
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_windows WHERE entity = $1", DEVICE) == 1
    assert shop.kept.foreign == []

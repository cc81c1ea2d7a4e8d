"""Payments and refunds through the whole stack while the gateway fails in every way; `./dev bench gateway-faults` has more."""

import os
from dataclasses import asdict

import pytest

from bench.gateway_faults import ENDPOINTS, Place, drive, kinds_of
from tests.web.conftest import TOKEN

from .conftest import PARTITIONS, Stack

pytestmark = pytest.mark.timeout(300)


async def test_a_gateway_that_fails_in_every_way_loses_and_doubles_nothing(stack: Stack) -> None:
    count = int(os.environ.get("FAULTY_PAYMENTS", "150"))
    stack.sim.deliveries.default_url = f"{stack.api.url}/v1/webhooks/cashfree"
    place = Place(
        web_url=stack.api.url,
        token=TOKEN,
        simulator_url=stack.gateway_url,
        database_url=stack.database_url,
        admin_url=stack.admin_url,
        readonly_url=stack.readonly_url,
        partitions=PARTITIONS,
    )
    found = await drive(place, payments=count, seed=1)
    print(asdict(found))
    assert (found.lost, found.double_credits, found.double_refunds, found.wrong_balances) == (0, 0, 0, 0)
    assert found.violations == []
    assert found.refunds > 0
    assert found.webhooks_lost > 0
    meant = {f"{endpoint} {kind}" for endpoint in ENDPOINTS for kind in kinds_of(endpoint)}
    assert {name for name, hits in found.faults.items() if hits} == meant

"""The simulator answers as Cashfree's public OpenAPI text says, to well-formed and to malformed requests."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.gateway.conftest import CLIENT_ID, SECRET, Running

SERVED = (
    "/orders",
    "/orders/{order_id}",
    "/orders/{order_id}/payments",
    "/orders/{order_id}/payments/{cf_payment_id}",
    "/orders/{order_id}/refunds",
    "/orders/{order_id}/refunds/{refund_id}",
    "/orders/{order_id}/settlements",
    "/settlements",
    "/orders/{order_id}/disputes",
    "/payments/{cf_payment_id}/disputes",
    "/disputes/{dispute_id}",
    "/disputes/{dispute_id}/accept",
)

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def nulls_allowed(node: Any) -> Any:
    """The same schema with every typed value nullable: the text's own examples have nulls its types lack."""
    if isinstance(node, list):
        return [nulls_allowed(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: nulls_allowed(value) for key, value in node.items()}
    if isinstance(found.get("type"), str) and "in" not in found:
        found["nullable"] = True
    return found


async def test_the_simulator_conforms_to_the_public_openapi_text(
    simulator: Running, reference: Path, tmp_path: Path
) -> None:
    text = json.loads((reference / "openapi-pg-2025-01-01.json").read_text())
    text["paths"] = {path: text["paths"][path] for path in SERVED}
    text["components"]["schemas"] = nulls_allowed(text["components"]["schemas"])
    schema = tmp_path / "openapi.json"
    schema.write_text(json.dumps(text))
    for order_id in ("order_a", "order_b"):
        customer = {"customer_id": "cust_1", "customer_phone": "9999999999"}
        order = {
            "order_id": order_id,
            "order_amount": 5,
            "order_currency": "INR",
            "customer_details": customer,
        }
        headers = {"x-client-id": CLIENT_ID, "x-client-secret": SECRET, "x-api-version": "2025-01-01"}
        async with simulator.http.post(f"{simulator.url}/pg/orders", json=order, headers=headers) as answer:
            assert answer.status == 200
        await simulator.pay(order_id)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        "run",
        str(schema),
        *("--url", f"{simulator.url}/pg"),
        *("-H", f"x-client-id: {CLIENT_ID}", "-H", f"x-client-secret: {SECRET}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"),
        *("--checks", ",".join(CHECKS)),
        *("--suppress-health-check", "all", "--warnings", "off", "--no-color", "--continue-on-failure"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 90)
    report = output.decode()
    assert process.returncode == 0, report[-6000:]
    assert f"Tested: {sum(len(operations) for operations in text['paths'].values())}" in report
    assert simulator.sim.calls["create_order"] > 50

"""Marked personal data and secrets go through web and worker, also inside errors, and reach no sink."""

import asyncio
from typing import Any

import asyncpg

from .house import House

EMAIL = "canary.bird@canary-mail.example"
PHONE = "9812345670"
CARD = "4111111111111111"
BEARER = "canary-bearer-token-0123456789"
MARKS = (
    "canary.bird",
    "canary-mail",
    PHONE,
    CARD,
    "4111 1111",
    BEARER,
    "canary-vpa",
    "token-of-the-tests-observed",
    "s" * 40,
)
SAID = f"{EMAIL} +91{PHONE} 4111 1111 1111 1111 Bearer {BEARER} canary-vpa@upi"

# A database that repeats in its error what it was given, as constraint violations do.
TELLTALE = """
CREATE FUNCTION telltale() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'cannot store {said}' USING DETAIL = 'Key (email)=({email}) of {phone}'; END $$;
CREATE TRIGGER telltale BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION telltale();
"""


async def tell(database: Any, table: str) -> None:
    admin = await asyncpg.connect(database.admin_url)
    sql = TELLTALE.format(said=SAID, email=EMAIL, phone=PHONE, table=table).replace(
        "telltale", f"telltale_{table}"
    )
    await admin.execute(sql)
    await admin.close()


async def test_no_sink_ever_sees_a_customer_or_a_secret(observed: House, database: Any) -> None:
    user, wallet = await observed.customer(email=EMAIL, phone=PHONE)
    strange = {"Authorization": f"Bearer {BEARER}", "X-Request-Id": PHONE, "User-Agent": SAID}
    async with observed.http.get(f"{observed.url}/v1/users/{EMAIL}?phone={PHONE}", headers=strange) as answer:
        assert answer.status in (400, 401, 403, 404)
    order = await observed.pay(user, wallet, instrument="canary-vpa@upi")
    await observed.credited(order["payment_id"])

    # An error in web, and one in the worker, each repeating everything.
    await tell(database, "users")
    refused = await observed.http.post(
        f"{observed.url}/v1/users",
        json={"external_id": "x", "email": EMAIL, "phone": PHONE, "state_code": "29"},
        headers={"Authorization": "Bearer token-of-the-tests-observed", "Idempotency-Key": CARD},
    )
    assert refused.status == 500
    await tell(database, "payment_attempts")
    await observed.pay(user, wallet, instrument="canary-vpa@upi")

    async def told() -> bool:
        services = {event.get("server_name") for event in observed.sentry.events}
        return services >= {"web", "worker-w1"} and "cannot store" in observed.logs()["worker.log"]

    await observed.until(told, what="no error was told\n")
    await asyncio.sleep(1.0)

    async with observed.http.get(observed.metrics_url) as answer:
        worker_metrics = await answer.text()
    async with observed.http.get(f"{observed.url}/metrics") as answer:
        web_metrics = await answer.text()
    logs = observed.logs()
    sinks = {
        "web's log": logs["web.log"],
        "the worker's log": logs["worker.log"],
        "the spans": (observed.directory / "spans.jsonl").read_text(),
        "Sentry": "\n".join(observed.sentry.envelopes),
        "web's metrics": web_metrics,
        "the worker's metrics": worker_metrics,
    }
    assert all(sinks.values()), (
        f"a sink that saw nothing proves nothing: {[n for n, s in sinks.items() if not s]}"
    )
    found = [(name, mark) for name, text in sinks.items() for mark in MARKS if mark in text]
    assert not found, (
        f"{found}\n"
        + "\n".join(line for name, mark in found for line in sinks[name].splitlines() if mark in line)[:4000]
    )

    event = next(e for e in observed.sentry.events if e.get("server_name") == "web" and "exception" in e)
    assert "cannot store [address]" in event["exception"]["values"][-1]["value"], (
        "the error is told, its data are not"
    )
    assert event["tags"]["request_id"]


async def test_every_line_is_json_with_its_ids(observed: House) -> None:
    import msgspec

    user, wallet = await observed.customer()
    order = await observed.pay(user, wallet)
    await observed.credited(order["payment_id"])
    for name in ("web.log", "worker.log"):
        lines = [msgspec.json.decode(line) for line in observed.logs()[name].splitlines()]
        assert all({"event", "level", "timestamp", "service"} <= set(line) for line in lines), name
    web = [msgspec.json.decode(line) for line in observed.logs()["web.log"].splitlines()]
    heard = [line for line in web if line.get("route") == "/v1/webhooks/cashfree"]
    assert heard
    assert all({"request_id", "event_id", "trace_id", "span_id"} <= set(line) for line in heard), heard[0]
    assert heard[0]["trace_id"] in {span.trace for span in observed.spans}

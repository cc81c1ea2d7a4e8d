"""One payment, followed through real processes and the streams' headers into a real OTLP receiver."""

import asyncio
from xml.etree import ElementTree

from deploy.observability import traces
from deploy.observability.collector import Span

from .house import TOKEN, House

PATH = (
    "POST /v1/webhooks/cashfree",
    "relay",
    "webhook.processing",
    "payment.processing",
    "verify",
    "fraud.detection",
    "wallet.credit",
    "analytics.billing",
    "dashboard",
)


async def look(house: House, until: asyncio.Event) -> None:
    """Somebody watches the live page."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with house.http.get(f"{house.url}/v1/live", headers=headers) as stream:
        async for _ in stream.content:
            if until.is_set():
                return


async def test_one_payment_is_one_trace_from_the_webhook_to_the_dashboard(observed: House) -> None:
    seen = asyncio.Event()
    watching = asyncio.create_task(look(observed, seen))
    user, wallet = await observed.customer()
    order = await observed.pay(user, wallet)
    await observed.credited(order["payment_id"])

    def own() -> list[Span]:
        found = traces.find(observed.spans, order["payment_id"])
        return [s for s in observed.spans if s.trace == found]

    async def has_arrived() -> bool:
        return {"dashboard", "notifications.billing", "invoice.generate"} <= {s.name for s in own()}

    await observed.until(has_arrived, what="the trace did not reach the dashboard\n")
    await asyncio.sleep(1.0)
    seen.set()
    watching.cancel()

    spans = own()
    by_id = {s.span: s for s in spans}
    names = {s.name for s in spans}
    assert names.issuperset(PATH), f"missing: {set(PATH) - names}"
    roots = [s for s in spans if s.parent not in by_id]
    assert [r.name for r in roots] == ["POST /v1/webhooks/cashfree"], "one tree, grown from the webhook"

    def ancestors(span: Span) -> list[str]:
        return [span.name, *(ancestors(by_id[span.parent]) if span.parent in by_id else [])]

    credit = next(s for s in spans if s.name == "wallet.credit")
    assert ancestors(credit)[1:2] == ["fraud.detection"] or ancestors(credit)[1:2] == ["fraud timer"]
    assert {s.service for s in spans} == {"web", "worker-w1"}, "across processes"
    folded = [s for s in spans if s.name == "analytics.billing" and "wallet.credit" in ancestors(s)]
    assert folded, "the credit's aggregates carry it into the windows"
    shown = next(s for s in spans if s.name == "dashboard")
    assert max(s.end_ns for s in folded) <= shown.end_ns, "shown once the windows have it"

    batches = {(s.trace, s.span): s for s in observed.spans if s.name.endswith(" batch")}
    for span in spans:
        if "." in span.name and not span.name.startswith("sql"):
            assert any(link in batches for link in span.links), f"{span.name} names its batch"
    assert all(b.links for b in batches.values()), "a batch links to the events it took"

    steps = traces.steps(observed.spans, spans[0].trace)
    table = traces.table(steps)
    assert "wallet.credit batch" in table
    assert "sql commit_batch" in table
    drawn = ElementTree.fromstring(traces.picture(steps))
    assert len(drawn.findall(".//{*}text")) > len(steps)


async def test_usage_is_one_trace_from_the_request_to_the_dashboard(observed: House) -> None:
    seen = asyncio.Event()
    watching = asyncio.create_task(look(observed, seen))
    _, wallet = await observed.customer()
    await observed.post(f"/v1/wallets/{wallet}/grants", {"credits": 100, "reason": "welcome"})
    events = [
        {"id": f"u-{n}", "wallet_id": wallet, "feature": "chat.message", "credits": 1 if n < 3 else 1000}
        for n in range(4)
    ]
    await observed.post("/v1/usage?wait=1000", {"events": events})

    def own() -> list[Span]:
        root = next((s for s in observed.spans if s.name == "POST /v1/usage"), None)
        return [] if root is None else [s for s in observed.spans if s.trace == root.trace]

    async def has_arrived() -> bool:
        return "dashboard" in {s.name for s in own()}

    await observed.until(has_arrived, what="the request's trace did not reach the dashboard\n")
    await asyncio.sleep(1.0)
    seen.set()
    watching.cancel()

    spans = own()
    by_id = {s.span: s for s in spans}
    assert [s.name for s in spans if s.parent not in by_id] == ["POST /v1/usage"], "one tree"

    def ancestors(span: Span) -> list[str]:
        return [span.name, *(ancestors(by_id[span.parent]) if span.parent in by_id else [])]

    [debit] = [s for s in spans if s.name == "wallet.debit"]
    assert ancestors(debit) == ["wallet.debit", "relay", "POST /v1/usage"], "four events are one step"
    folded = [s for s in spans if s.name == "analytics.billing"]
    assert folded
    assert all("wallet.debit" in ancestors(s) for s in folded)
    [shown] = [s for s in spans if s.name == "dashboard"]
    assert max(s.end_ns for s in folded) <= shown.end_ns, "shown once the windows have it"
    batches = {(s.trace, s.span): s for s in observed.spans if s.name == "wallet.debit batch"}
    [batch] = [batches[link] for link in debit.links if link in batches]
    committed = [s for s in observed.spans if s.trace == batch.trace and s.name == "sql commit_batch"]
    assert committed, "the debit's commit is in the batch that it names"


async def test_what_is_not_sampled_is_not_traced_at_all(database, broker, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from .house import house

    async with house(tmp_path, database.url, broker.url, broker.admin_url, TRACE_SAMPLE_RATIO="0") as quiet:
        user, wallet = await quiet.customer()
        order = await quiet.pay(user, wallet)
        await quiet.credited(order["payment_id"])
        assert quiet.spans == []

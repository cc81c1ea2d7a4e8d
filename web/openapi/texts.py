"""The words of the reference: how resources are called and in which order they come, and titles that a name cannot give."""

from pathlib import Path
from typing import Final

from web.calls import Route

GUIDE: Final = (Path(__file__).parent / "guide.md").read_text()

TAGS: Final = {
    "users": ("Users", "People and companies that own wallets and buy credits."),
    "wallets": ("Wallets", "A balance of credits, how it came about, and credits given for free."),
    "transactions": ("Wallets", ""),
    "holds": ("Holds", "Credits set aside for work that is under way, then spent or given back."),
    "usage": ("Usage", "What services report as used. Each event is charged once, for ever, by its id."),
    "packs": ("Payments", ""),
    "payments": (
        "Payments",
        "Buying credits: an order is made, paid at the gateway, verified, and credited.",
    ),
    "refunds": ("Refunds", "Money that goes back, and the credits that go with it."),
    "receipts": ("Receipts", "Money that came without a sale: paid twice, rejected, or of another amount."),
    "disputes": ("Disputes", "What banks say about payments, what it took, and what was won back."),
    "invoices": ("Invoices", "GST tax invoices and credit notes as issued, and their PDFs."),
    "fraud": ("Fraud reviews", "Payments that were held, why, and a person's word about each."),
    "webhook-endpoints": (
        "Webhook endpoints",
        "Where your events are sent, signed in the Standard Webhooks format.",
    ),
    "webhook-deliveries": ("Webhook endpoints", ""),
    "aggregates": ("Aggregates", "Windows of billing metrics, with the offsets that each answer is true at."),
    "reconciliation": (
        "Reconciliation",
        "Differences between the gateway, the ledger and the bank, for people to decide.",
    ),
    "approvals": (
        "Approvals",
        "What waits for a second person. Approving does exactly what was asked, at once.",
    ),
    "dead-letters": ("Dead letters", "Events that nothing could get through, to read, replay or give up."),
    "audit": ("Audit", "Who did what to which object, from where."),
    "api-keys": ("API keys", "Keys of services, and tokens called back."),
    "tokens": ("API keys", ""),
    "publishers": ("Publishers", "For services that publish usage straight onto the stream."),
    "webhooks": ("Gateway webhooks", "What the payment gateway tells us, and what became of it."),
    "live": ("Operations", "Health, numbers, and the live feed."),
}
"""By the first part of a path: the resource, and what it is."""

TITLES: Final = {
    "POST /v1/users/{id}/notifications/read": "Mark notifications as read",
    "POST /v1/wallets/{id}/grants": "Grant credits",
    "POST /v1/holds/{id}/capture": "Capture a hold",
    "POST /v1/holds/{id}/release": "Release a hold",
    "POST /v1/usage": "Report usage",
    "GET /v1/usage": "List a wallet's charges",
    "GET /v1/usage/{id}": "Get an event's outcome",
    "POST /v1/payments/orders": "Create an order",
    "POST /v1/payments/{id}/session": "Get a payment session",
    "POST /v1/payments/{id}/retry": "Retry a payment",
    "POST /v1/payments/{id}/verify": "Verify a payment",
    "POST /v1/payments/{id}/sync": "Sync a payment with the gateway",
    "POST /v1/payments/{id}/invoice": "Request a payment's invoice",
    "GET /v1/payments/{id}/refunds": "List a payment's refunds",
    "GET /v1/refunds": "List refunds",
    "POST /v1/refunds/{id}/payout": "Decide a payout",
    "POST /v1/receipts/{id}/refund": "Return a receipt",
    "GET /v1/invoices/{id}.pdf": "Download an invoice's PDF",
    "GET /v1/fraud/reviews": "List fraud reviews",
    "GET /v1/fraud/reviews/{id}": "Get a fraud review",
    "POST /v1/fraud/reviews/{id}/approve": "Let a held payment go",
    "POST /v1/fraud/reviews/{id}/reject": "Reject a held payment",
    "GET /v1/reconciliation/cases": "List cases",
    "POST /v1/reconciliation/cases/{id}/assign": "Assign a case",
    "POST /v1/reconciliation/cases/{id}/resolve": "Resolve a case",
    "POST /v1/reconciliation/run": "Reconcile now",
    "POST /v1/dead-letters/replay": "Replay a topic's dead letters",
    "POST /v1/dead-letters/{id}/replay": "Replay a dead letter",
    "POST /v1/dead-letters/{id}/purge": "Give a dead letter up",
    "GET /v1/publishers/{name}/sessions/{session}/watermarks": "Get a session's watermarks",
    "GET /v1/aggregates/{metric}": "Get a metric's windows",
    "POST /v1/approvals/{id}/approve": "Approve",
    "POST /v1/approvals/{id}/reject": "Reject",
    "GET /v1/audit": "List audit entries",
    "GET /v1/audit.jsonl": "Export audit entries as JSON lines",
    "GET /v1/audit.csv": "Export audit entries as CSV",
    "GET /v1/api-keys": "List API keys",
    "POST /v1/api-keys": "Create an API key",
    "POST /v1/api-keys/{id}/rotate": "Rotate an API key",
    "POST /v1/api-keys/{id}/revoke": "Revoke an API key",
    "POST /v1/tokens/revoke": "Call tokens back",
    "GET /v1/users/{id}/webhook-endpoints": "List a user's endpoints",
    "POST /v1/webhook-endpoints/{id}/rotate-secret": "Rotate an endpoint's secret",
    "POST /v1/webhook-endpoints/{id}/enable": "Enable an endpoint",
    "POST /v1/webhook-endpoints/{id}/disable": "Disable an endpoint",
    "POST /v1/webhook-endpoints/{id}/delete": "Delete an endpoint",
    "POST /v1/webhook-endpoints/{id}/replay": "Replay an endpoint's events",
    "GET /v1/webhook-deliveries/{id}": "Get a delivery",
    "POST /v1/webhook-deliveries/{id}/replay": "Replay a delivery",
    "POST /v1/webhooks/cashfree": "Receive a gateway webhook",
    "GET /v1/webhooks/received": "List received webhooks",
    "GET /v1/live": "Watch live figures",
    "GET /v1/openapi.json": "Get this description",
    "GET /healthz": "Alive?",
    "GET /readyz": "Ready?",
    "GET /metrics": "Prometheus metrics",
}
_WITHOUT_ARTICLE: Final = ("preferences", "notifications", "endpoints")


def tag_of(route: Route) -> tuple[str, str]:
    """The name of a route's resource, and what it is."""
    part = route.path.removeprefix("/v1/").split("/")[0].split(".")[0]
    if route.path.startswith("/v1/users/{id}/webhook-endpoints"):
        part = "webhook-endpoints"
    name, text = TAGS.get(part, TAGS["live"])
    return name, text or next(t for n, t in TAGS.values() if n == name and t)


def title_of(route: Route) -> str:
    """What a route does, in a few words."""
    if route.name in TITLES:
        return TITLES[route.name]
    verb, _, what = str((route.handler or route.handle).__name__).partition("_")
    what = what.replace("_", " ")
    article = (
        "" if verb == "list" or what.endswith(_WITHOUT_ARTICLE) else "an " if what[:1] in "aeio" else "a "
    )
    return f"{verb.capitalize()} {article}{what}".strip()


def description_of(route: Route) -> str:
    """The handler's own words about it, without the line that repeats the path."""
    said = " ".join(((route.handler or route.handle).__doc__ or "").split())
    _, colon, text = said.partition(": ") if said.partition(" ")[0] in ("GET", "POST") else ("", ":", said)
    if not colon:
        _, _, text = said.partition(". ")
    text = text.strip()
    return text[:1].upper() + text[1:]

"""The table of routes: method, path, what it asks of its caller, its types. `web.policy` says who may call each."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from web import ledger_calls, live, ops
from web.auth import Reach, Scope
from web.calls import ACTIONS, USAGE_BODY_BYTES, Route, reads, writes
from web.ownership import check_path
from web.policy import Policy
from web.resources import (
    aggregates,
    api_keys,
    approvals,
    dead_letters,
    disputes,
    endpoints,
    holds,
    invoices,
    notifications,
    orders,
    payments,
    publishers,
    receipts,
    reconciliation,
    refunds,
    usage,
    users,
    verification,
    wallets,
    webhooks,
)
from web.services import SERVICES
from web.shapes import NoQuery, Nothing

# fmt: off
ROUTES: Final[tuple[Route, ...]] = (
    writes("/v1/users", users.create_user, users.NewUser, scope=Scope.USERS_WRITE, answer=users.UserAnswer),
    reads("/v1/users/{id}", users.get_user, NoQuery, scope=Scope.USERS_READ, answer=users.UserAnswer),
    reads("/v1/users/{id}/notifications", notifications.list_notifications, notifications.NotificationsQuery,
          scope=Scope.USERS_READ, answer=notifications.NotificationsPage),
    writes("/v1/users/{id}/notifications/read", notifications.mark_read, notifications.ReadBody,
           scope=Scope.USERS_WRITE, answer=notifications.ReadAnswer),
    reads("/v1/users/{id}/preferences", notifications.get_preferences, NoQuery,
          scope=Scope.USERS_READ, answer=notifications.PreferencesAnswer),
    writes("/v1/users/{id}/preferences", notifications.set_preferences, notifications.Preferences,
           scope=Scope.USERS_WRITE, answer=notifications.PreferencesAnswer),
    writes("/v1/wallets", wallets.create_wallet, wallets.NewWallet, scope=Scope.WALLETS_WRITE, answer=wallets.WalletAnswer),
    reads("/v1/wallets/{id}", wallets.get_wallet, NoQuery, scope=Scope.WALLETS_READ, answer=wallets.WalletAnswer),
    reads("/v1/wallets/{id}/transactions", wallets.list_transactions, wallets.TransactionsQuery,
          scope=Scope.WALLETS_READ, answer=wallets.TransactionsPage),
    writes("/v1/wallets/{id}/grants", wallets.grant, wallets.NewGrant,
           scope=Scope.CREDITS_GRANT, answer=ledger_calls.PostedAnswer, second_person=wallets.by_staff),
    writes("/v1/holds", holds.create_hold, holds.NewHold, scope=Scope.CREDITS_HOLD, answer=ledger_calls.PostedAnswer),
    reads("/v1/holds/{id}", holds.get_hold, NoQuery, scope=Scope.CREDITS_HOLD, answer=holds.HoldAnswer),
    writes("/v1/holds/{id}/capture", holds.capture, holds.Capture, scope=Scope.CREDITS_HOLD, answer=ledger_calls.PostedAnswer),
    writes("/v1/holds/{id}/release", holds.release, Nothing, scope=Scope.CREDITS_HOLD, answer=ledger_calls.PostedAnswer),
    writes("/v1/usage", usage.post_usage, usage.UsageBody, scope=Scope.USAGE_WRITE, answer=usage.UsageResults,
           query=usage.UsageQuery, limit=USAGE_BODY_BYTES),
    reads("/v1/usage/{id}", usage.get_usage, usage.UsageQuery, scope=Scope.USAGE_READ, answer=usage.UsageAnswer),
    reads("/v1/packs", payments.list_packs, NoQuery, scope=Scope.PAYMENTS_READ, answer=payments.Packs),
    writes("/v1/payments/orders", orders.create_order, orders.NewOrder, scope=Scope.PAYMENTS_WRITE, answer=orders.OrderAnswer),
    reads("/v1/payments/{id}", payments.get_payment, NoQuery, scope=Scope.PAYMENTS_READ, answer=payments.PaymentAnswer),
    writes("/v1/payments/{id}/session", orders.create_session, Nothing, scope=Scope.PAYMENTS_WRITE, answer=orders.OrderAnswer),
    writes("/v1/payments/{id}/retry", orders.retry, Nothing, scope=Scope.PAYMENTS_WRITE, answer=orders.OrderAnswer),
    writes("/v1/payments/{id}/verify", verification.verify, Nothing, query=verification.AskQuery,
           scope=Scope.PAYMENTS_WRITE, answer=payments.PaymentAnswer),
    writes("/v1/payments/{id}/sync", verification.sync, Nothing, query=verification.AskQuery,
           scope=Scope.PAYMENTS_WRITE, answer=payments.PaymentAnswer),
    writes("/v1/payments/{id}/invoice", invoices.request_invoice, Nothing,
           scope=Scope.PAYMENTS_WRITE, answer=invoices.InvoiceRequest),
    writes("/v1/payments/{id}/refunds", refunds.create_refund, refunds.NewRefund,
           scope=Scope.REFUNDS_WRITE, answer=refunds.RefundAnswer, second_person=refunds.above_limit),
    reads("/v1/payments/{id}/refunds", refunds.list_refunds, NoQuery, scope=Scope.REFUNDS_READ, answer=refunds.Refunds),
    reads("/v1/refunds/{id}", refunds.get_refund, NoQuery, scope=Scope.REFUNDS_READ, answer=refunds.RefundAnswer),
    writes("/v1/refunds/{id}/payout", refunds.decide_payout, refunds.PayoutVerdict,
           scope=Scope.REFUNDS_STAFF, answer=refunds.RefundAnswer, second_person=refunds.pays_out),
    reads("/v1/receipts", receipts.list_receipts, receipts.ReceiptsQuery,
          scope=Scope.REFUNDS_READ, answer=receipts.ReceiptsPage),
    writes("/v1/receipts/{id}/refund", receipts.return_receipt, Nothing,
           scope=Scope.REFUNDS_STAFF, answer=refunds.RefundAnswer, second_person=receipts.above_limit),
    reads("/v1/disputes", disputes.list_disputes, disputes.DisputesQuery,
          scope=Scope.REFUNDS_READ, answer=disputes.DisputesPage),
    reads("/v1/disputes/{id}", disputes.get_dispute, NoQuery, scope=Scope.REFUNDS_READ, answer=disputes.DisputeAnswer),
    Route("GET", "/v1/invoices/{id}.pdf", Scope.PAYMENTS_READ, invoices.get_pdf),
    reads("/v1/invoices/{id}", invoices.get_invoice, NoQuery, scope=Scope.PAYMENTS_READ, answer=invoices.InvoiceAnswer),
    reads("/v1/reconciliation/cases", reconciliation.list_cases, reconciliation.CasesQuery,
          scope=Scope.RECON_READ, answer=reconciliation.CasesPage),
    writes("/v1/reconciliation/cases/{id}/assign", reconciliation.assign, reconciliation.Assign,
           scope=Scope.RECON_WRITE, answer=reconciliation.CaseAnswer),
    writes("/v1/reconciliation/cases/{id}/resolve", reconciliation.resolve, reconciliation.Resolve,
           scope=Scope.RECON_WRITE, answer=reconciliation.CaseAnswer),
    writes("/v1/reconciliation/run", reconciliation.run, Nothing,
           scope=Scope.RECON_WRITE, answer=reconciliation.RunAnswer),
    reads("/v1/dead-letters", dead_letters.list_dead_letters, dead_letters.DeadLettersQuery,
          scope=Scope.QUEUES_READ, answer=dead_letters.DeadLettersPage),
    writes("/v1/dead-letters/replay", dead_letters.replay_many, dead_letters.ReplayMany,
           scope=Scope.QUEUES_WRITE, answer=dead_letters.ReplayedAnswer),
    reads("/v1/dead-letters/{id}", dead_letters.get_dead_letter, NoQuery,
          scope=Scope.QUEUES_READ, answer=dead_letters.DeadLetterStory),
    writes("/v1/dead-letters/{id}/replay", dead_letters.replay, dead_letters.Decision,
           scope=Scope.QUEUES_WRITE, answer=dead_letters.DeadLetterStory),
    writes("/v1/dead-letters/{id}/purge", dead_letters.purge, dead_letters.Decision,
           scope=Scope.QUEUES_WRITE, answer=dead_letters.DeadLetterStory),
    reads("/v1/publishers/{name}/sessions/{session}/watermarks", publishers.get_watermarks, NoQuery,
          scope=Scope.PUBLISHERS_READ, answer=publishers.Watermarks),
    reads("/v1/aggregates/{metric}", aggregates.get_aggregate, aggregates.AggregateQuery,
          scope=Scope.AGGREGATES_READ, answer=aggregates.AggregateAnswer),
    reads("/v1/approvals", approvals.list_approvals, approvals.ApprovalsQuery,
          scope=Scope.APPROVALS_READ, answer=approvals.ApprovalsPage),
    reads("/v1/approvals/{id}", approvals.get_approval, NoQuery, scope=Scope.APPROVALS_READ, answer=approvals.ApprovalAnswer),
    writes("/v1/approvals/{id}/approve", approvals.approve, approvals.Verdict,
           scope=Scope.APPROVALS_WRITE, answer=approvals.Approved),
    writes("/v1/approvals/{id}/reject", approvals.reject, approvals.Verdict,
           scope=Scope.APPROVALS_WRITE, answer=approvals.ApprovalAnswer),
    reads("/v1/api-keys", api_keys.list_keys, api_keys.KeysQuery, scope=Scope.ACCESS_READ, answer=api_keys.KeysPage),
    writes("/v1/api-keys", api_keys.create_key, api_keys.NewKey, scope=Scope.ACCESS_WRITE, answer=api_keys.SecretAnswer),
    writes("/v1/api-keys/{id}/rotate", api_keys.rotate_key, api_keys.Rotation,
           scope=Scope.ACCESS_WRITE, answer=api_keys.SecretAnswer),
    writes("/v1/api-keys/{id}/revoke", api_keys.revoke_key, Nothing, scope=Scope.ACCESS_WRITE, answer=api_keys.KeyAnswer),
    writes("/v1/tokens/revoke", api_keys.revoke_tokens, api_keys.Revocation,
           scope=Scope.ACCESS_WRITE, answer=api_keys.RevokedAnswer),
    reads("/v1/users/{id}/webhook-endpoints", endpoints.list_endpoints, endpoints.EndpointsQuery,
          scope=Scope.ENDPOINTS_READ, answer=endpoints.EndpointsPage),
    writes("/v1/webhook-endpoints", endpoints.create_endpoint, endpoints.NewEndpoint,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.EndpointSecretAnswer),
    reads("/v1/webhook-endpoints/{id}", endpoints.get_endpoint, NoQuery,
          scope=Scope.ENDPOINTS_READ, answer=endpoints.EndpointAnswer),
    writes("/v1/webhook-endpoints/{id}", endpoints.update_endpoint, endpoints.EndpointChange,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.EndpointAnswer),
    writes("/v1/webhook-endpoints/{id}/rotate-secret", endpoints.rotate_secret, endpoints.SecretRotation,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.EndpointSecretAnswer),
    writes("/v1/webhook-endpoints/{id}/enable", endpoints.enable, Nothing,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.EndpointAnswer),
    writes("/v1/webhook-endpoints/{id}/disable", endpoints.disable, Nothing,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.EndpointAnswer),
    reads("/v1/webhook-endpoints/{id}/deliveries", endpoints.list_deliveries, endpoints.DeliveriesQuery,
          scope=Scope.ENDPOINTS_READ, answer=endpoints.DeliveriesPage),
    writes("/v1/webhook-endpoints/{id}/replay", endpoints.replay_range, endpoints.ReplayRange,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.ReplayAnswer),
    reads("/v1/webhook-deliveries/{id}", endpoints.get_delivery, NoQuery,
          scope=Scope.ENDPOINTS_READ, answer=endpoints.DeliveryAnswer),
    writes("/v1/webhook-deliveries/{id}/replay", endpoints.replay_delivery, Nothing,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.DeliveryAnswer),
    writes("/v1/webhook-endpoints/{id}/delete", endpoints.delete, Nothing,
           scope=Scope.ENDPOINTS_WRITE, answer=endpoints.DeletedEndpoint),
    Route("POST", "/v1/webhooks/cashfree", Scope.SIGNED, webhooks.receive_cashfree, answer=webhooks.WebhookAnswer),
    Route("GET", "/v1/live", Scope.LIVE, live.stream),
    Route("GET", "/healthz", Scope.PUBLIC, ops.healthz),
    Route("GET", "/readyz", Scope.PUBLIC, ops.readyz),
    Route("GET", "/metrics", Scope.PUBLIC, ops.metrics),
    Route("GET", "/", Scope.LIVE, live.page),
    Route("GET", "/static/{path:.+}", Scope.PUBLIC, live.static),
)
# fmt: on


POLICY: Final = Policy(ROUTES)

MONEY_LEAVES: Final = frozenset({Scope.REFUNDS_WRITE, Scope.REFUNDS_STAFF, Scope.APPROVALS_WRITE})
"""What is refused while callers cannot be counted."""


def add_routes(app: web.Application) -> None:
    """Every route of the table, each behind the policy."""
    app[ACTIONS] = {route.name: route for route in ROUTES}
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _guarded(route))


def _guarded(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    kind = POLICY.kind(route)

    async def handle(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        caller = await services.access.caller(request, route.scope)
        caller = replace(caller, reach=POLICY.allow(route, caller))
        if route.scope in MONEY_LEAVES:
            await services.throttle.take("refunds", caller.principal)
        if caller.reach is Reach.OWN and kind is not None:
            await check_path(services.db, caller, kind, dict(request.match_info))
        return await route.handle(request, caller)

    return handle

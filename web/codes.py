"""Every `code` that a problem may have, with its status and what it means. Codes are stable: programs rely on them.

What a webhook of the gateway is refused with is said in `gateway.signature.Reason`.
"""

from dataclasses import dataclass
from typing import Final

from gateway.signature import Reason


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of problem: `meaning` says what happened and what to do about it."""

    status: int
    meaning: str


_TABLE: Final = """
400 filter_required            The list must be narrowed: name the user or the wallet.
400 idempotency_key_invalid    The Idempotency-Key is not one of 1 to 128 printable characters without ':'.
400 idempotency_key_required   This write needs an Idempotency-Key. Make one, and repeat it when you retry.
400 invalid_cursor             The cursor is not the `next` of a page of this list.
400 invalid_parameter          A query parameter is unknown or cannot be read.
400 invalid_range              The period is empty or longer than allowed.
400 malformed_body             The body is not framed as its head says.
400 malformed_json             The body is not JSON.
400 duplicate_key              An object of the body has a key twice.
400 repeated_header            A header that may come once came twice.
400 repeated_parameter         A query parameter came twice.
400 malformed_request          The request is not one of HTTP/1.1, or cannot be read.
400 too_many_windows           The answer would have too many windows: ask for a shorter period or a wider window.
401 unauthorised               No credential, or not a good one. What exactly is wrong is in our log, not here.
402 insufficient_credits       The wallet has too few available credits. The answer stays the same for this key.
403 approval_rejected          A second person said no.
403 forbidden                  The role, or the scopes of the credential, do not allow this.
403 second_person_required     Whoever asked for it cannot approve it.
403 source_not_allowed         No webhook comes from this address.
404 unknown_api_key            There is no such API key.
404 unknown_approval           There is no such approval, or it is not yours.
404 unknown_case               There is no such case.
404 unknown_dead_letter        There is no such dead letter.
404 unknown_delivery           There is no such delivery, or it is not yours.
404 unknown_dispute            There is no such dispute.
404 unknown_endpoint           There is no such webhook endpoint, or it is not yours.
404 unknown_file               There is no such file.
404 unknown_hold               There is no such hold, or it is not yours.
404 unknown_invoice            There is no such invoice, or it is not yours.
404 unknown_metric             There is no such metric.
404 unknown_payment            There is no such payment, or it is not yours.
404 unknown_publisher          There is no such publisher, or it is not you.
404 unknown_receipt            There is no such receipt.
404 unknown_refund             There is no such refund, or it is not yours.
404 unknown_review             This payment was never held.
404 unknown_route              There is no such path.
404 unknown_session            A session's id is a UUID.
404 unknown_transaction        There is no such transaction, or it is not yours.
404 unknown_usage              You have reported no such event.
404 unknown_user               There is no such user, or it is not you.
404 unknown_wallet             There is no such wallet, or it is not yours.
405 method_not_allowed         The path takes other methods: see Allow.
408 body_too_slow              The body took too long to arrive.
408 slow_head                  The head of the request took too long to arrive.
409 api_key_over               This key has ended: make a new one.
409 approval_expired           Nobody decided in time: ask again with a new Idempotency-Key.
409 approval_over              It was decided otherwise.
409 behind_parked              Earlier work on this wallet waits to be decided: try again.
409 case_resolved              The case is resolved. It opens again if the difference recurs.
409 external_id_taken          Another request made a user of this external id; `id` is that user.
409 hold_not_open              The hold is captured or released already.
409 hold_of_a_refund           The hold belongs to a refund, which ends it.
409 idempotency_key_conflict   The Idempotency-Key stands for another request: use a new one.
409 idempotency_key_in_use     The first request with this key is being done: try again.
409 lot_not_free               The credits are held or spent already.
409 not_dead                   Only a dead item is replayed.
409 not_purgeable              It is not dead, or a purchase that nobody was credited.
409 not_rendered_yet           The document is issued and its PDF follows: try again in a second.
409 order_not_made             The gateway does not know the order: send the order's request again.
409 order_not_open             The order takes no payment any more.
409 payment_not_credited       The payment is not credited yet.
409 payment_not_failed         Only what failed is paid again.
409 payment_not_held           Nobody has to decide about this payment.
409 payment_paid               The gateway has the order as paid: it is being verified.
409 pending_credits            Credits are on their way to the wallet, and may be enough: try again.
409 refund_not_there           The refund does not stand where this verdict fits.
409 review_over                It was decided otherwise.
409 unverified_payment         The payment is not verified yet.
413 body_too_large             The body is larger than this route takes.
415 encoded_body               Send the body without Content-Encoding.
415 not_json                   Send Content-Type: application/json.
415 not_utf8                   JSON is sent as UTF-8.
417 expectation_failed         Only `Expect: 100-continue` is understood.
422 client_ip_is_known         A customer's address is where the request comes from: leave client_ip out.
422 empty_range                The last number is below the first.
422 gateway_refused            The gateway refused the order for good; `detail` has its words.
422 hold_too_small             The hold is for fewer credits.
422 insufficient_refundable    More than may still be refunded: see refundable_paise.
422 invalid_client_ip          client_ip is not an IPv4 or IPv6 address.
422 invalid_gstin              The GSTIN's check digit or State is wrong.
422 invalid_request            The body is not as this route wants it; `detail` names the place.
422 invalid_text               A text has a NUL character.
422 jti_or_subject             Say one of jti and subject.
422 kinds_or_every_kind        Say one of kinds and every_kind.
422 metadata_too_large         The metadata has more than 4,096 bytes as compact JSON.
422 not_refundable             The payment was never credited, or has gone back already.
422 note_required              Say why.
422 phone_required             The gateway needs the customer's phone number.
422 place_of_supply_unknown    Neither a GSTIN nor a State says where the purchase is taxed.
422 refund_too_small           So small an amount takes no credit back.
422 scope_not_for_services     No service may have one of these scopes.
422 too_many_endpoints         An account has at most 20 endpoints.
422 unknown_kind               There is no such kind of event or notification.
422 unknown_owner              There is no such user to own the wallet.
422 unknown_pack               No pack has this price: see GET /v1/packs.
422 unknown_state              No State of India has this code.
422 url_refused                No webhook is sent to this address.
422 wallet_not_of_user         The user has no such wallet.
429 too_many_of_one            Too many connections from one address.
429 too_many_requests          Too often: wait for Retry-After seconds.
431 head_too_large             The head of the request is too large.
500 internal_error             Our fault; it is logged under the request's id.
501 not_implemented            The request asks for something of HTTP that nobody offers here.
502 gateway_outcome_unknown    Nobody knows what became of it at the gateway: try again with the same key.
503 database_unavailable       The database cannot answer now. Nothing was lost: try again.
503 gateway_busy               Nothing was sent to the gateway: try again with the same key.
503 migrations_missing         The database is older than this process.
503 overloaded                 Too much is under way. Nothing was done: try again.
503 stopping                   This process is shutting down.
503 throttle_unavailable       Callers cannot be counted just now, so no money leaves: try again with the same key.
503 too_many                   Too many connections: try again.
503 webhooks_not_configured    No secret is known to verify a webhook with.
"""

_OF_WEBHOOKS: Final = {
    Reason.TOO_LARGE: "The body is larger than any webhook.",
    Reason.MEDIA_TYPE: "A webhook is JSON.",
    Reason.MISSING_HEADER: "The timestamp or the signature is missing.",
    Reason.TIMESTAMP: "The timestamp is not one in milliseconds.",
    Reason.BODY: "The body is not one JSON object.",
    Reason.SIGNATURE: "The signature is not that of these bytes under a secret of ours.",
    Reason.FUTURE: "The timestamp is in the future.",
}


def _read() -> dict[str, Code]:
    codes = {}
    for line in _TABLE.strip().splitlines():
        status, code, meaning = line.split(maxsplit=2)
        assert code not in codes, code
        codes[code] = Code(int(status), meaning)
    of_webhooks = {str(reason): Code(reason.status, meaning) for reason, meaning in _OF_WEBHOOKS.items()}
    return codes | of_webhooks


CODES: Final = _read()

"""The judge sees each kind of wrong: it is asked about books that are right but for one row."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from bench.faults import books
from bench.faults.judge import Verdict, judge
from bench.faults.log import Log, Order, Refund, Told, Use
from sql.db import Database

Rows = list[dict[str, Any]]
WALLET, SCARCE, PAYMENT = uuid4(), uuid4(), uuid4()


class Books:
    """Rows by the judge's query, as a database would give them."""

    def __init__(self, log: Log) -> None:
        self.tables: dict[str, Rows] = {name: [] for name in books.Q}
        balances = {WALLET: 1000, SCARCE: 10}
        spent = {use.id: use for use in log.uses.values() if use.id != "s3"}
        for seq, use in enumerate(spent.values(), 1):
            self.tables["posted_usage"].append(
                {"id": use.id, "wallet_id": use.wallet_id, "amount_credits": use.credits, "seq": seq}
            )
            balances[use.wallet_id] -= use.credits
        self.tables["refused_usage"].append({"id": "s3"})
        balances[WALLET] += 5500 - 1100
        self.tables["payments"].append(
            {
                "id": PAYMENT, "order_id": "o", "wallet_id": WALLET, "status": "credited", "amount": 50_000,
                "purchases": 1, "posted_credits": 5500, "asked_later": False,
            }
        )  # fmt: skip
        self.tables["refunds"].append(
            {"refund_id": "r", "order_id": "o", "wallet_id": WALLET, "amount": 10_000, "status": "done"}
        )
        self.tables["wallets"] += [
            {"id": wallet, "available_credits": balance, "locked_credits": 0, "lowest": 0}
            for wallet, balance in balances.items()
        ]
        self.gateway: dict[str, dict[str, Any]] = {
            "o": {
                "order_id": "o", "status": "PAID", "amount_paise": 50_000,
                "refunds": [{"refund_id": "r", "status": "SUCCESS", "amount_paise": 10_000}],
            }
        }  # fmt: skip

    async def rows(self, query: str, *_: object) -> Sequence[dict[str, Any]]:
        return self.tables[next(name for name, text in books.Q.items() if text == query)]

    async def judged(self, log: Log) -> Verdict:
        return await judge(cast(Database, self), log, self.gateway)


@pytest.fixture
def log() -> Log:
    made = Log(granted={WALLET: 1000, SCARCE: 10}, exact={SCARCE})
    for id, wallet, credits in (
        ("a", WALLET, 5),
        ("b", WALLET, 7),
        ("s1", SCARCE, 4),
        ("s2", SCARCE, 5),
        ("s3", SCARCE, 2),
    ):
        made.uses[id] = Use(id, "client", wallet, "chat", credits, Told.ACKNOWLEDGED)
    made.orders.append(Order("k", WALLET, 50_000, Told.ACKNOWLEDGED, PAYMENT, "o", True))
    made.refunds.append(Refund("k2", PAYMENT, 10_000, Told.ACKNOWLEDGED, "r"))
    return made


async def test_right_books_are_right(log: Log) -> None:
    verdict = await Books(log).judged(log)
    assert verdict.wrong() == []
    assert (verdict.posted, verdict.refused) == (4, 1)


async def test_an_acknowledged_event_without_outcome_is_lost(log: Log) -> None:
    made = Books(log)
    log.uses["c"] = Use("c", "api", WALLET, "chat", 1, Told.ACKNOWLEDGED)
    assert len((await made.judged(log)).lost) == 1
    log.uses["c"].told = Told.UNKNOWN
    assert (await made.judged(log)).wrong() == []


async def test_a_confirmed_event_of_no_client_of_ours_is_lost_in_its_own_class(log: Log) -> None:
    made = Books(log)
    log.uses["c"] = Use("c", "raw", WALLET, "chat", 1, Told.ACKNOWLEDGED)
    verdict = await made.judged(log)
    assert (len(verdict.raw_lost), verdict.wrong()) == (1, [])


async def test_an_event_posted_twice_is_seen(log: Log) -> None:
    made = Books(log)
    made.tables["posted_usage"].append(made.tables["posted_usage"][0])
    verdict = await made.judged(log)
    assert verdict.duplicated
    assert any(str(WALLET) in line for line in verdict.differences)


async def test_an_event_posted_with_another_amount_is_seen(log: Log) -> None:
    made = Books(log)
    made.tables["posted_usage"][0]["amount_credits"] += 1
    assert (await made.judged(log)).duplicated


async def test_two_events_of_a_wallet_in_the_wrong_order_are_seen(log: Log) -> None:
    made = Books(log)
    rows = made.tables["posted_usage"]
    rows[0], rows[1] = rows[1], rows[0]
    assert len((await made.judged(log)).misordered) == 1


async def test_a_refusal_that_the_model_would_have_posted_is_seen(log: Log) -> None:
    made = Books(log)
    log.granted[SCARCE] = 11
    made.tables["wallets"][1]["available_credits"] += 1
    assert (await made.judged(log)).differences == ["s3: the model says posted"]


async def test_a_negative_moment_of_a_wallet_is_seen(log: Log) -> None:
    made = Books(log)
    made.tables["wallets"][0]["lowest"] = -1
    assert len((await made.judged(log)).negative) == 1


@pytest.mark.parametrize(
    ("purchases", "status", "kind"),
    [(2, "PAID", "duplicated"), (1, "ACTIVE", "duplicated"), (0, "PAID", "lost")],
)
async def test_a_payment_is_credited_once_if_the_gateway_was_paid(
    log: Log, purchases: int, status: str, kind: str
) -> None:
    made = Books(log)
    made.tables["payments"][0]["purchases"] = purchases
    made.gateway["o"]["status"] = status
    assert getattr(await made.judged(log), kind)


async def test_a_paid_order_that_will_be_asked_about_later_is_not_lost_and_is_told(log: Log) -> None:
    made = Books(log)
    made.tables["payments"][0] |= {"purchases": 0, "asked_later": True, "status": "active"}
    verdict = await made.judged(log)
    assert (verdict.lost, len(verdict.waiting)) == ([], 1)


async def test_a_refund_that_the_gateway_does_not_know_is_seen(log: Log) -> None:
    made = Books(log)
    made.gateway["o"]["refunds"] = []
    verdict = await made.judged(log)
    assert any(line.startswith("refund r") for line in verdict.differences)


async def test_a_refund_that_never_ends_is_lost(log: Log) -> None:
    made = Books(log)
    made.tables["refunds"][0]["status"] = "pending"
    assert (await made.judged(log)).lost == ["refund r: still pending"]


async def test_a_wallet_that_has_a_credit_too_many_is_seen(log: Log) -> None:
    made = Books(log)
    made.tables["wallets"][0]["available_credits"] += 1
    assert len((await made.judged(log)).differences) == 1

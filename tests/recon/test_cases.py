"""Cases: one per difference, with a story that only grows; and every way in which the books may disagree."""

import asyncio
import sys
from uuid import uuid4

import asyncpg
import pytest

from agents import reconcile, reconciler
from deploy.migrations import CHECKOUT
from gateway.simulator.faults import Fault
from sql import invariants, reconciliation
from sql.reconciliation import Difference

from .conftest import Desk


def difference(actual: int = 1, subject: str = "s") -> Difference:
    return Difference("test_kind", subject, {"n": 0}, {"n": actual})


async def test_a_difference_is_one_case_that_opens_again_when_it_recurs(desk: Desk) -> None:
    db = desk.till.db
    assert await reconciliation.open_cases(db, [difference(), difference(), difference(subject="t")]) == [
        "opened",
        "known",
        "opened",
    ]
    assert await reconciliation.open_cases(db, [difference(2)]) == ["changed"]
    case = (await desk.cases())[-1]
    assert await reconciliation.assign_case(db, case.id, "asha", actor="ravi") == "assigned"
    assert await reconciliation.assign_case(db, case.id, "asha", actor="ravi") == "exists"
    assert await reconciliation.resolve_case(db, case.id, "  ", actor="asha") == "note_required"
    assert await reconciliation.resolve_case(db, case.id, "found the cause", actor="asha") == "resolved"
    assert await reconciliation.resolve_case(db, case.id, "again", actor="asha") == "exists"
    assert await reconciliation.assign_case(db, case.id, "ravi", actor="ravi") == "resolved"
    assert await reconciliation.open_cases(db, [difference(2)], actor="night") == ["reopened"]
    again = await reconciliation.get_case(db, case.id)
    assert again is not None
    assert (again.state, again.owner, again.resolved_at) == ("open", "asha", None)
    story = [(event["event"], event["actor"]) for event in again.history]
    assert story == [
        ("opened", "core"),
        ("changed", "core"),
        ("assigned", "ravi"),
        ("resolved", "asha"),
        ("reopened", "night"),
    ]
    assert [event.get("note") for event in again.history] == [None, None, None, "found the cause", None]
    audit = await desk.till.admin.fetch("SELECT actor, action, object_id FROM audit_logs ORDER BY id")
    assert [tuple(row) for row in audit] == [
        ("ravi", "case.assign", str(case.id)),
        ("asha", "case.resolve", str(case.id)),
    ]
    assert await reconciliation.assign_case(db, uuid4(), "x", actor="x") == "unknown"
    assert await reconciliation.resolve_case(db, uuid4(), "x", actor="x") == "unknown"


async def test_an_accepted_difference_is_no_news_until_it_is_another(desk: Desk) -> None:
    db = desk.till.db
    await reconciliation.open_cases(db, [difference()])
    (case,) = await desk.cases()
    await reconciliation.resolve_case(db, case.id, "it is right so", actor="asha", accept=True)
    assert await reconciliation.open_cases(db, [difference()]) == ["known"]
    assert await reconciliation.open_cases(db, [difference(3)]) == ["reopened"]


async def test_the_same_difference_found_by_many_at_once_is_one_case(desk: Desk) -> None:
    found = await asyncio.gather(
        *(
            reconciliation.open_cases(desk.till.db, [difference(subject=str(n)) for n in range(5)])
            for _ in range(6)
        )
    )
    assert sorted(outcome for outcomes in found for outcome in outcomes) == ["known"] * 25 + ["opened"] * 5


async def test_a_case_refuses_that_its_story_is_rewritten(desk: Desk) -> None:
    await reconciliation.open_cases(desk.till.db, [difference()])
    for statement in (
        "UPDATE reconciliation_cases SET history = '[]'",
        "UPDATE reconciliation_cases SET owner = 'nobody asked'",
        "UPDATE reconciliation_cases SET subject = 'other', history = history || '{}'::jsonb",
        "UPDATE reconciliation_cases SET history = '[{}, {}]'",
        "DELETE FROM reconciliation_cases",
        "TRUNCATE reconciliation_cases",
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await desk.till.admin.execute(statement)
        assert refused.value.sqlstate == "LG010"


async def test_cases_are_paged_by_key(desk: Desk) -> None:
    await reconciliation.open_cases(desk.till.db, [difference(subject=str(n)) for n in range(5)])
    first = await reconciliation.get_cases(desk.till.db, limit=3)
    rest = await reconciliation.get_cases(desk.till.db, limit=3, before=first[-1].id)
    assert [case.subject for case in first + rest] == ["4", "3", "2", "1", "0"]
    assert await reconciliation.get_cases(desk.till.db, limit=3, kind="other") == []
    assert len(await reconciliation.get_cases(desk.till.db, limit=9, state="open", kind="test_kind")) == 5


async def test_right_books_have_no_case_and_wrong_ones_each_their_own(desk: Desk) -> None:
    payments = [await desk.till.buy(50_000) for _ in range(4)]
    await desk.reconcile()
    assert await desk.kinds() == []
    assert await invariants.check(desk.till.readonly_url) == []
    untold, other, lost, forged = payments
    admin = desk.till.admin
    await admin.execute("SET session_replication_role = replica")
    await admin.execute(
        "UPDATE wallets SET available_credits = available_credits + 7 WHERE id = $1", untold.wallet_id
    )
    await admin.execute(
        "UPDATE invoices SET cgst_amount = cgst_amount + 1, taxable_amount = taxable_amount - 1 WHERE payment_id = $1",
        other.id,
    )
    await admin.execute("DELETE FROM invoices WHERE payment_id = $1", lost.id)
    await admin.execute("UPDATE payments SET verified_at = NULL WHERE id = $1", forged.id)
    await admin.execute(
        "DELETE FROM wallet_transactions WHERE source_id = $1 AND transaction_type = 'purchase'", str(lost.id)
    )
    await admin.execute("SET session_replication_role = origin")
    for _ in range(2):
        await desk.reconcile()
    found = {case.kind: case for case in await desk.cases()}
    assert sorted(case.kind for case in await desk.cases()) == [
        "credit_without_payment", "invoice_amount", "invoice_missing", "payment_not_credited", "wallet_balance", "wallet_balance",
    ]  # fmt: skip
    assert found["credit_without_payment"].subject == str(forged.id)
    assert found["invoice_missing"].subject == found["payment_not_credited"].subject == str(lost.id)
    balances = {case.subject: case for case in await desk.cases() if case.kind == "wallet_balance"}
    assert set(balances) == {str(untold.wallet_id), str(lost.wallet_id)}
    told = balances[str(untold.wallet_id)]
    assert (told.expected["available_credits"], told.actual["available_credits"]) == (5_500, 5_507)
    assert (await desk.till.balance(untold.wallet_id))[0] == 5_507, "nothing is corrected by overwriting"


async def test_a_run_that_was_asked_for_is_due_at_once_also_while_one_is_under_way(desk: Desk) -> None:
    db = desk.till.db
    assert not await reconciliation.take_job(db, "reconcile", "w", lease_s=60), "not before night"
    await reconciliation.request_reconciliation(db, "asha")
    assert await reconciliation.take_job(db, "reconcile", "w", lease_s=60)
    await reconciliation.request_reconciliation(db, "ravi")
    await reconciliation.finish_job(db, "reconcile", "w", after_s=None, result={"lines_new": 0})
    assert await reconciliation.take_job(db, "reconcile", "w", lease_s=60)
    await reconciliation.finish_job(db, "reconcile", "w", after_s=None)
    assert not await reconciliation.take_job(db, "reconcile", "w", lease_s=60)
    job = await reconciliation.get_job(db, "reconcile")
    assert job.result == {"lines_new": 0}
    assert job.next_at is not None
    assert (job.next_at.hour, job.next_at.minute) == (21, 0), "02:30 IST"
    assert await desk.till.admin.fetchval("SELECT array_agg(actor ORDER BY id) FROM audit_logs") == [
        "asha",
        "ravi",
    ]


async def test_the_worker_runs_what_was_asked_for_and_waits_out_a_gateway_that_fails(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "POLL_S", 0.02)
    monkeypatch.setattr(reconciler, "RETRY_S", 0.05)
    await desk.till.buy(50_000)
    desk.till.sim.book.settle()
    desk.till.sim.faults.rules.append(Fault(endpoint="get_settlements", kind="502", times=5))
    await reconciliation.request_reconciliation(desk.till.db, "asha")
    loop = asyncio.create_task(desk.reconciler("w").run())
    async with asyncio.timeout(15):
        while (await reconciliation.get_job(desk.till.db, "reconcile")).result is None:
            await asyncio.sleep(0.05)
    loop.cancel()
    job = await reconciliation.get_job(desk.till.db, "reconcile")
    # A page that was stored before the gateway failed is read again afterwards, and its line is known then.
    assert job.result is not None
    assert job.result.pop("lines_known") in (0, 1)
    assert job.result == {"lines_new": 1, "unheard": 0, "unapplied": 0, "cases": {}}
    assert "gateway_clearing" not in await desk.till.sums()


async def test_a_person_works_through_the_cases_at_a_terminal(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", desk.till.app_url)
    await reconciliation.open_cases(desk.till.db, [difference()])
    (case,) = await desk.cases()
    answers = []
    for said in (
        ["list"], ["assign", str(case.id), "ravi"], ["resolve", str(case.id), "--note", "done"], ["show", str(case.id)],
        ["list", "--state", "open"], ["resolve", str(uuid4()), "--note", "x"], ["clearing"],
    ):  # fmt: skip
        code = await reconcile.main(reconcile.parse(["--actor", "asha", *said]))
        answers.append((code, capsys.readouterr().out))
    assert [code for code, _ in answers] == [0, 0, 0, 0, 0, 1, 0]
    assert "test_kind  s" in answers[0][1]
    assert '"note": "done"' in answers[3][1]
    assert answers[4][1] == "0 cases\n"


@pytest.mark.parametrize("program", [["agents.reconcile"], ["deploy.cli", "reconcile"]])
async def test_the_command_line_runs_as_a_program(desk: Desk, program: list[str]) -> None:
    await reconciliation.open_cases(desk.till.db, [difference()])
    (case,) = await desk.cases()

    async def said(*words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *program, *words,
            cwd=CHECKOUT, env={"DATABASE_URL": desk.till.app_url, "PATH": "/usr/bin"}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    assert await said("resolve", str(case.id), "--note", "it was a test") == (0, "resolved\n")
    assert await said("list", "--state", "open") == (0, "0 cases\n")
    assert (await said("show", str(case.id)))[1].count("it was a test") == 1

"""The executable specification of the ledger: one command at a time, in memory, no cleverness.

`Ledger.apply` says what the database's `commit_batch` must answer and leave behind, and the tests compare
the two over random batches. So this file is written to be read: precedence first, then one method per kind.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid5

from domain import postings
from domain.commands import (
    CONFLICT,
    INCOMING,
    KINDS,
    MAX_CREDITS,
    Command,
    Kind,
    Outcome,
    Reason,
    Status,
    Transaction,
    exists,
    parked,
    posted,
    quarantined,
    refused,
)
from domain.gst import NOTHING, GstSplit
from domain.lots import Lot, Move, Place, burn_plan, in_burn_order, move, reverse
from domain.money import Credits, Paise
from domain.postings import Legs
from domain.refunds import force_reversal, pay_debt, refund_slice
from domain.wallets import Hold, Wallet


@dataclass(slots=True)
class Ledger:
    """All wallets, what they hold and everything that happened to them. `apply` and `retry` change it."""

    wallets: dict[UUID, Wallet] = field(default_factory=dict)
    lots: dict[UUID, Lot] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    keys: dict[str, tuple[bytes, Outcome]] = field(default_factory=dict)
    purchases: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    parked: defaultdict[tuple[str, UUID], list[Command]] = field(default_factory=lambda: defaultdict(list))
    transactions: list[Transaction] = field(default_factory=list)

    def open_wallet(self, wallet_id: UUID) -> Wallet:
        """Open a wallet, or return it if it is open."""
        return self.wallets.setdefault(wallet_id, Wallet(wallet_id))

    def expect_credits(self, wallet_id: UUID, credits: Credits) -> None:
        """A payment was verified: its credits are on their way (pending)."""
        self.wallets[wallet_id].pending += credits

    def lots_of(self, wallet_id: UUID) -> list[Lot]:
        """The wallet's lots in burn order."""
        return in_burn_order(self.lots[lot_id] for lot_id in self.wallets[wallet_id].lot_ids)

    # -- precedence

    def apply(self, topic: str, command: Command) -> Outcome:
        """Decide one command that came on `topic`; remember it under its key if final, else as parked."""
        outcome = self._precheck(command)
        if outcome is None and self.parked[topic, command.wallet_id]:
            outcome = parked(Reason.BEHIND_PARKED)
        if outcome is None:
            outcome = self._decide(command, wait_for_pending=True)
        self._remember(command, outcome)
        if outcome.status is Status.PARKED:
            self.parked[topic, command.wallet_id].append(command)
        return outcome

    def retry(self, topic: str, wallet_id: UUID, *, wait_for_pending: bool = True) -> Outcome:
        """Decide the wallet's first parked command of this topic anew; it leaves the queue unless parked.

        With `wait_for_pending=False` (its time is up) a debit no longer waits for credits on their way.
        """
        queue = self.parked[topic, wallet_id]
        outcome = self._precheck(queue[0])
        if outcome is None:
            outcome = self._decide(queue[0], wait_for_pending=wait_for_pending)
        self._remember(queue[0], outcome)
        if outcome.status is not Status.PARKED:
            queue.pop(0)
        return outcome

    def _precheck(self, command: Command) -> Outcome | None:
        """The checks before anything of the wallet is looked at, in order; None if they all pass."""
        if command.kind not in KINDS:
            return quarantined(Reason.UNKNOWN_KIND)
        if not 1 <= command.credits <= MAX_CREDITS or command.refund_paise < 0:
            return quarantined(Reason.BAD_AMOUNT)
        if command.key in self.keys:
            request_hash, outcome = self.keys[command.key]
            return exists(outcome) if request_hash == command.request_hash else CONFLICT
        if command.kind == Kind.PURCHASE and (command.source, command.source_id) in self.purchases:
            return exists(self.purchases[command.source, command.source_id])
        if command.wallet_id not in self.wallets:
            incoming = command.kind in INCOMING
            return parked(Reason.UNKNOWN_WALLET) if incoming else quarantined(Reason.UNKNOWN_WALLET)
        return None

    def _remember(self, command: Command, outcome: Outcome) -> None:
        if outcome.status in (Status.POSTED, Status.REFUSED):
            self.keys[command.key] = (command.request_hash, outcome)
            if command.kind == Kind.PURCHASE:
                self.purchases[command.source, command.source_id] = outcome

    # -- the kinds

    def _decide(self, command: Command, *, wait_for_pending: bool) -> Outcome:
        wallet = self.wallets[command.wallet_id]
        kind = Kind(command.kind)
        named = command.lot_id if kind is Kind.EXPIRE else None
        self._expire_due(wallet, command.occurred_at, but=named)
        if self._takes_any_credits(command):
            short = self._short(wallet, command.credits, wait_for_pending)
            if short is not None:
                return short
        handlers: dict[Kind, Callable[[Wallet, Command], Outcome]] = {
            Kind.PURCHASE: self._purchase,
            Kind.GRANT: self._grant,
            Kind.SPEND: self._spend,
            Kind.HOLD: self._hold,
            Kind.CAPTURE: self._capture,
            Kind.RELEASE: self._release,
            Kind.REFUND: self._refund,
            Kind.EXPIRE: self._expire,
            Kind.CHARGEBACK: self._chargeback,
        }
        outcome = handlers[kind](wallet, command)
        # What was released into a lot past its expiry expires at once (W16).
        if kind in (Kind.CAPTURE, Kind.RELEASE, Kind.REFUND) and outcome.status is Status.POSTED:
            self._expire_due(wallet, command.occurred_at)
        return outcome

    @staticmethod
    def _takes_any_credits(command: Command) -> bool:
        return command.kind == Kind.SPEND or (command.kind == Kind.HOLD and command.lot_id is None)

    def _short(self, wallet: Wallet, credits: Credits, wait_for_pending: bool) -> Outcome | None:
        """Why a debit does not fit the wallet; None if it does. A wallet in debt spends nothing."""
        if wallet.debt == 0 and credits <= wallet.available:
            return None
        # Credits on their way pay the debt first; the debit waits if it fits what is left of them.
        left = wallet.pending - wallet.debt
        if wait_for_pending and left >= 0 and credits <= wallet.available + left:
            return parked(Reason.PENDING_CREDITS)
        return refused(Reason.INSUFFICIENT_CREDITS)

    def _purchase(self, wallet: Wallet, command: Command) -> Outcome:
        payment = command.payment
        if (
            payment is None
            or not payment.verified
            or payment.held
            or payment.wallet_id != wallet.id
            or payment.credits_granted != command.credits
        ):
            return parked(Reason.UNVERIFIED_PAYMENT)
        lot = self._new_lot(command, payment.invoice, bonus=payment.bonus)
        lot = replace(lot, offer_paise=payment.offer_paise)
        legs = postings.capture(payment.invoice, command.credits, offer_paise=payment.offer_paise)
        moves: list[Move] = []
        paid = min(wallet.debt, command.credits)
        if paid:
            lot, taken = move(lot, paid, Place.FREE, Place.DEBT_PAID)
            payoff = pay_debt(
                credits=paid,
                deferred_paise=taken.recognised_paise,
                debt=wallet.debt,
                receivable_paise=wallet.receivable_paise,
            )
            wallet.debt -= paid
            wallet.receivable_paise -= payoff.receivable_paise
            legs += postings.debt_paid(payoff)
            moves.append(taken)
        self._add_lot(wallet, lot)
        wallet.pending -= min(wallet.pending, command.credits)
        wallet.lifetime_purchased += command.credits
        return posted(self._post(wallet, command, command.credits - paid, legs, moves))

    def _grant(self, wallet: Wallet, command: Command) -> Outcome:
        self._add_lot(wallet, self._new_lot(command, NOTHING, bonus=command.credits))
        return posted(self._post(wallet, command, command.credits, postings.grant(command.credits), []))

    def _spend(self, wallet: Wallet, command: Command) -> Outcome:
        moves = self._burn(wallet, command.credits, Place.SPENT)
        legs = postings.spend(command.credits, _recognised(moves))
        return posted(self._post(wallet, command, -command.credits, legs, moves))

    def _hold(self, wallet: Wallet, command: Command) -> Outcome:
        if command.lot_id is None:
            moves = self._burn(wallet, command.credits, Place.HELD)
        else:
            lot = self._lot_with(wallet, command.lot_id, command.credits)
            if lot is None:
                return refused(Reason.LOT_NOT_FREE)
            moves = [self._move(lot.id, command.credits, Place.FREE, Place.HELD)]
        self.holds[command.id] = Hold(
            command.id, wallet.id, tuple((taken.lot_id, taken.credits) for taken in moves)
        )
        wallet.locked += command.credits
        legs = postings.hold(command.credits)
        return posted(self._post(wallet, command, -command.credits, legs, moves))

    def _capture(self, wallet: Wallet, command: Command) -> Outcome:
        hold = self._open_hold(wallet, command.hold_id)
        if hold is None:
            return refused(Reason.HOLD_NOT_OPEN)
        if command.credits > hold.credits:
            return refused(Reason.HOLD_TOO_SMALL)
        spent: list[Move] = []
        left = command.credits
        for lot_id, credits in hold.parts:
            if left:
                spent.append(self._move(lot_id, min(credits, left), Place.HELD, Place.SPENT))
                left -= spent[-1].credits
        freed = self._free_rest(hold, spent)
        rest = self._close(wallet, hold) - command.credits
        legs = postings.spend(command.credits, _recognised(spent), held=True) + postings.release(rest)
        return posted(self._post(wallet, command, rest, legs, spent + freed))

    def _release(self, wallet: Wallet, command: Command) -> Outcome:
        hold = self._open_hold(wallet, command.hold_id)
        if hold is None:
            return refused(Reason.HOLD_NOT_OPEN)
        freed = self._free_rest(hold, [])
        credits = self._close(wallet, hold)
        return posted(self._post(wallet, command, credits, postings.release(credits), freed))

    def _refund(self, wallet: Wallet, command: Command) -> Outcome:
        """Take credits of the named lot back: free ones, or those of the hold that set them aside for it."""
        hold = None
        if command.hold_id is not None:
            hold = self._open_hold(wallet, command.hold_id)
            if hold is None:
                return refused(Reason.HOLD_NOT_OPEN)
            if {lot_id for lot_id, _ in hold.parts} != {command.lot_id}:
                return refused(Reason.LOT_NOT_FREE)
            if command.credits > hold.credits:
                return refused(Reason.HOLD_TOO_SMALL)
        lot = self._lot_with(wallet, command.lot_id, 0 if hold else command.credits)
        if lot is None or lot.paid_back_paise + command.refund_paise > lot.paid_paise:
            return refused(Reason.LOT_NOT_FREE)
        source = Place.HELD if hold else Place.FREE
        part, offer_paise = refund_slice(lot, command.refund_paise)
        self.lots[lot.id], reversal = reverse(lot, command.credits, source, part, offer_paise=offer_paise)
        moves = [Move(lot.id, source, Place.REVERSED, command.credits)]
        legs = postings.refund(reversal, held=hold is not None)
        if hold is None:
            return posted(self._post(wallet, command, -command.credits, legs, moves))
        moves += self._free_rest(hold, moves)
        rest = self._close(wallet, hold) - command.credits
        return posted(self._post(wallet, command, rest, legs + postings.release(rest), moves))

    def _expire(self, wallet: Wallet, command: Command) -> Outcome:
        lot = self._lot_with(wallet, command.lot_id, command.credits)
        if lot is None:
            return refused(Reason.LOT_NOT_FREE)
        return posted(self._expire_lot(wallet, command, lot))

    def _chargeback(self, wallet: Wallet, command: Command) -> Outcome:
        """The gateway took `refund_paise` back: reverse what the lot still has free, the rest is debt.

        How many credits follows from the money; `command.credits` only says that it is a positive command.
        """
        lot = self._lot_with(wallet, command.lot_id, 0)
        if lot is None or not 0 < lot.paid_back_paise + command.refund_paise <= lot.paid_paise:
            return refused(Reason.LOT_NOT_FREE)
        self.lots[lot.id], forced = force_reversal(lot, command.refund_paise)
        taken = forced.reversal.credits
        wallet.debt += forced.debt
        wallet.receivable_paise += forced.receivable_paise
        moves = [Move(lot.id, Place.FREE, Place.REVERSED, taken)] if taken else []
        return posted(self._post(wallet, command, -taken, postings.chargeback(forced), moves))

    # -- lots and holds

    def _new_lot(self, command: Command, invoice: GstSplit, bonus: Credits) -> Lot:
        return Lot(
            id=command.id,
            wallet_id=command.wallet_id,
            granted=command.credits,
            free=command.credits,
            bonus=bonus,
            effective_at=command.occurred_at,
            expires_at=command.expires_at,
            priority=command.priority,
            promotional=command.promotional,
            invoice=invoice,
        )

    def _add_lot(self, wallet: Wallet, lot: Lot) -> None:
        self.lots[lot.id] = lot
        wallet.lot_ids.append(lot.id)

    def _lot_with(self, wallet: Wallet, lot_id: UUID | None, free: Credits) -> Lot | None:
        """The wallet's lot, if it has so many free credits."""
        lot = self.lots.get(lot_id) if lot_id is not None else None
        return lot if lot is not None and lot.wallet_id == wallet.id and free <= lot.free else None

    def _open_hold(self, wallet: Wallet, hold_id: UUID | None) -> Hold | None:
        hold = self.holds.get(hold_id) if hold_id is not None else None
        return hold if hold is not None and hold.wallet_id == wallet.id and hold.open else None

    def _move(self, lot_id: UUID, credits: Credits, source: Place, target: Place) -> Move:
        self.lots[lot_id], moved = move(self.lots[lot_id], credits, source, target)
        return moved

    def _burn(self, wallet: Wallet, credits: Credits, target: Place) -> list[Move]:
        plan = burn_plan(self.lots_of(wallet.id), credits)
        assert plan is not None, "the lots' free credits are the wallet's available ones (I17)"
        return [self._move(lot.id, part, Place.FREE, target) for lot, part in plan]

    def _free_rest(self, hold: Hold, used: Iterable[Move]) -> list[Move]:
        """Give back what a hold still has of each lot after `used`."""
        gone = {taken.lot_id: taken.credits for taken in used}
        rests = [(lot_id, credits - gone.get(lot_id, 0)) for lot_id, credits in hold.parts]
        return [self._move(lot_id, rest, Place.HELD, Place.FREE) for lot_id, rest in rests if rest]

    def _close(self, wallet: Wallet, hold: Hold) -> Credits:
        """Close a hold whose credits have moved, and say how many it had."""
        hold.open = False
        wallet.locked -= hold.credits
        return hold.credits

    def _expire_due(self, wallet: Wallet, at: datetime, but: UUID | None = None) -> None:
        """Expire what is free in lots that are due, in burn order, each in a transaction of its own."""
        for lot in self.lots_of(wallet.id):
            if not lot.due(at) or lot.id == but:
                continue
            key = f"core:expire/{lot.id}" + (f"/{lot.expired}" if lot.expired else "")
            command = Command(uuid5(lot.id, key), wallet.id, Kind.EXPIRE, lot.free, key, b"", at)
            self.keys[key] = (b"", posted(self._expire_lot(wallet, command, lot)))

    def _expire_lot(self, wallet: Wallet, command: Command, lot: Lot) -> Transaction:
        moves = [self._move(lot.id, command.credits, Place.FREE, Place.EXPIRED)]
        legs = postings.expire(command.credits, _recognised(moves))
        return self._post(wallet, command, -command.credits, legs, moves)

    # -- posting

    def _post(
        self, wallet: Wallet, command: Command, effect: Credits, legs: Legs, moves: Iterable[Move]
    ) -> Transaction:
        """Change the available credits by `effect` and write the transaction that says so."""
        before = wallet.available
        wallet.available += effect
        wallet.last_seq += 1
        assert min(wallet.available, wallet.locked) >= 0
        transaction = Transaction(
            id=command.id,
            wallet_id=wallet.id,
            seq=wallet.last_seq,
            kind=Kind(command.kind),
            key=command.key,
            occurred_at=command.occurred_at,
            credits=command.credits,
            effect=effect,
            balance_before=before,
            balance_after=wallet.available,
            locked_after=wallet.locked,
            moves=tuple(moves),
            legs=legs,
        )
        self.transactions.append(transaction)
        return transaction


def _recognised(moves: Iterable[Move]) -> Paise:
    return sum(taken.recognised_paise for taken in moves)

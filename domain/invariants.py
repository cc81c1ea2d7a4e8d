"""MONEY's invariants, asked of the model: each answers with what is wrong, so an empty list is good news."""

from collections import Counter, defaultdict
from uuid import UUID

from domain.ledger import Ledger
from domain.postings import Account, Asset


def account_balances(ledger: Ledger) -> Counter[Account]:
    """Every account's balance over all wallets, debits positive: paise or credits by the account's asset."""
    totals: Counter[Account] = Counter()
    for transaction in ledger.transactions:
        for leg in transaction.legs:
            totals[leg.account] += leg.amount
    return totals


def violations(ledger: Ledger) -> list[str]:
    """All violated invariants (I1-I6, I8, I17, I19) in words; empty when the books are right."""
    return [*_transactions(ledger), *_balances(ledger), *_lots(ledger), *_deferral(ledger)]


def _transactions(ledger: Ledger) -> list[str]:
    wrong: list[str] = []
    last: dict[UUID, tuple[int, int]] = dict.fromkeys(ledger.wallets, (0, 0))
    seen: set[str] = set()
    for transaction in ledger.transactions:
        wrong += [
            f"I1 {transaction.key}: {asset} does not sum to zero"
            for asset in Asset
            if sum(leg.amount for leg in transaction.legs if leg.account.asset is asset)
        ]
        seq, balance = last[transaction.wallet_id]
        if transaction.seq != seq + 1:
            wrong.append(f"I4 {transaction.key}: seq {transaction.seq} follows {seq}")
        if transaction.balance_before != balance:
            wrong.append(f"I5 {transaction.key}: starts at {transaction.balance_before}, not {balance}")
        if transaction.balance_after != transaction.balance_before + transaction.effect:
            wrong.append(f"I5 {transaction.key}: balances and effect disagree")
        last[transaction.wallet_id] = (transaction.seq, transaction.balance_after)
        if transaction.key in seen:
            wrong.append(f"I6 {transaction.key} posted twice")
        seen.add(transaction.key)
        wallet = -sum(leg.amount for leg in transaction.legs if leg.account is Account.WALLET)
        if wallet != transaction.effect:
            wrong.append(f"I8 {transaction.key}: entries of {wallet}, effect {transaction.effect}")
    return wrong


def _balances(ledger: Ledger) -> list[str]:
    wrong: list[str] = []
    entries: defaultdict[UUID, Counter[Account]] = defaultdict(Counter)
    for transaction in ledger.transactions:
        for leg in transaction.legs:
            entries[transaction.wallet_id][leg.account] += leg.amount
    for wallet in ledger.wallets.values():
        own = entries[wallet.id]
        stated = {
            Account.WALLET: -wallet.available,
            Account.WALLET_HELD: -wallet.locked,
            Account.WALLET_DEBT: wallet.debt,
            Account.CREDIT_DEBT_RECEIVABLE: wallet.receivable_paise,
        }
        wrong += [
            f"I2 {wallet.id}: {account} is {amount}, its entries {own[account]}"
            for account, amount in stated.items()
            if own[account] != amount
        ]
        if min(wallet.available, wallet.locked, wallet.pending, wallet.debt) < 0:
            wrong.append(f"I3 {wallet.id}: below zero")
        if wallet.debt == 0 and wallet.receivable_paise:
            wrong.append(f"I19 {wallet.id}: no debt, but {wallet.receivable_paise} paise receivable")
    return wrong


def _lots(ledger: Ledger) -> list[str]:
    wrong: list[str] = []
    free: Counter[UUID] = Counter()
    held: Counter[UUID] = Counter()
    for lot in ledger.lots.values():
        places = (lot.free, lot.held, lot.spent, lot.debt_paid, lot.reversed, lot.expired)
        if sum(places) != lot.granted or min(places) < 0:
            wrong.append(f"I17 lot {lot.id}: {places} is not {lot.granted}")
        if lot.deferred_paise < 0 or (not lot.open and lot.deferred_paise):
            wrong.append(f"I19 lot {lot.id}: defers {lot.deferred_paise}")
        if not 0 <= lot.refunded_paise <= lot.invoice.total_paise:
            wrong.append(f"I9 lot {lot.id}: {lot.refunded_paise} refunded")
        free[lot.wallet_id] += lot.free
        held[lot.wallet_id] += lot.held
    open_holds: Counter[UUID] = Counter()
    for hold in ledger.holds.values():
        if hold.open:
            open_holds[hold.wallet_id] += hold.credits
    for wallet in ledger.wallets.values():
        if (free[wallet.id], held[wallet.id]) != (wallet.available, wallet.locked):
            wrong.append(f"I17 {wallet.id}: its lots have {free[wallet.id]} free, {held[wallet.id]} held")
        if open_holds[wallet.id] != wallet.locked:
            wrong.append(f"I17 {wallet.id}: its open holds have {open_holds[wallet.id]}")
    return wrong


def _deferral(ledger: Ledger) -> list[str]:
    """I19: recognised + deferred + rounding - receivable = net sold - refunded, and the lots say the same."""
    totals = account_balances(ledger)
    lots = ledger.lots.values()
    deferred = -totals[Account.DEFERRED_REVENUE]
    wrong: list[str] = []
    if deferred != sum(lot.deferred_paise for lot in lots):
        wrong.append(f"I19 {deferred} paise are deferred, the lots say otherwise")
    earned = -(totals[Account.REVENUE] + totals[Account.BREAKAGE] + totals[Account.ROUNDING])
    taxes = (Account.CGST_PAYABLE, Account.SGST_PAYABLE, Account.IGST_PAYABLE)
    net = sum(lot.invoice.total_paise - lot.refunded_paise for lot in lots)
    net += sum(totals[account] for account in taxes)
    if earned + deferred - totals[Account.CREDIT_DEBT_RECEIVABLE] != net:
        wrong.append(f"I19 {earned} earned and {deferred} deferred do not explain {net} of net sales")
    return wrong

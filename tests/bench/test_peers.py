"""The ledgers that ours is compared with keep their books, or the comparison means nothing."""

import pytest

from bench import peer_ledgers, peers


async def test_every_ledger_of_the_comparison_works_and_is_in_balance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_ledgers, "ACCOUNTS", 500)
    monkeypatch.setattr(peer_ledgers, "ROW_WALLETS", 200)
    [run], settings = await peer_ledgers.measure(wallets=300, rounds=1, seconds=0.2, seed=1)
    assert run.pop("violations") == []
    assert settings["fsync"] == "on"
    rates = {name: value for name, value in run.items() if name.endswith(" per_s")}
    assert len(rates) == 8
    assert all(rates.values())


def test_ratios_are_taken_within_a_run() -> None:
    once = {
        "commit_batch per_s": 6.0,
        "commit_batch client_us": 6.0,
        "limit per_s": 12.0,
        "limit client_us": 12.0,
    }
    runs = [{name: value * scale for name, value in once.items()} for scale in (1.0, 10.0, 3.0)]
    assert peers.ratios(runs) == {"limit": 0.5, "limit cpu": 2.0}

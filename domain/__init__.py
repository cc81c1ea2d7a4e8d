"""The rules: money, credits, GST, refunds, splits, fraud verdicts, ledger postings.

Standard library only; no I/O, clock, randomness or environment.
"""

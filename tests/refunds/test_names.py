"""Every worked case of MONEY's refunds and payments has a test of its name: a missing one fails here."""

import re
from pathlib import Path

CASES = (1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13)
"""W1 to W13 as they are numbered: there is no W2 and no W10."""


def test_each_worked_case_is_a_test_against_the_real_books_by_its_name() -> None:
    text = (Path(__file__).parent / "test_worked_cases.py").read_text()
    named = {int(number) for number in re.findall(r"^async def test_w(\d+)_", text, re.MULTILINE)}
    assert named == set(CASES)

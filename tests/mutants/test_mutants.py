"""Every mutant still has something to break and somebody to notice; the quickest one is killed. All: `./dev mutants`."""

from pathlib import Path

import pytest

from deploy.migrations import CHECKOUT
from tests.mutants.__main__ import Copy
from tests.mutants.mutants import MUTANTS, Mutant

QUICK = "no digest check"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_its_tests_exist(mutant: Mutant) -> None:
    changed: dict[str, str] = {}
    for edit in mutant.edits:
        text = changed.get(edit.file) or (CHECKOUT / edit.file).read_text()
        assert text.count(edit.old) == 1, f"{edit.file}: {edit.old}"
        changed[edit.file] = text.replace(edit.old, edit.new)
    for test in mutant.tests:
        file, _, name = test.partition("[")[0].partition("::")
        assert f"def {name}" in (CHECKOUT / file).read_text() if name else (CHECKOUT / file).is_file()


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_is_killed_in_a_copy_and_the_checkout_stays_as_it_is(tmp_path: Path) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == QUICK)
    before = {edit.file: (CHECKOUT / edit.file).read_text() for edit in mutant.edits}
    copy = Copy(tmp_path)
    try:
        assert copy.judge(mutant).verdict == "killed"
    finally:
        copy.close()
    assert {file: (CHECKOUT / file).read_text() for file in before} == before

"""`./dev mutants`: break a private copy of the code, one mutant at a time; its tests must fail there, and pass without it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from deploy.local.home import forget
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT
from tests.mutants.mutants import MUTANTS, Edit, Mutant

_FAILED = 1
"""pytest's exit code for failed tests; any other but 0 says that they did not run."""
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Result:
    """killed | survived | broken (its tests did not run, or fail without it)."""

    name: str
    verdict: str
    seconds: float
    said: str


class Copy:
    """The project's files as they are now, in a directory of their own, with the checkout's packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=CHECKOUT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, names):
            if (CHECKOUT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, root / name)
        (root / ".local").mkdir(mode=0o700)
        if (LOCAL / "packages").exists():
            (root / ".local" / "packages").symlink_to(LOCAL / "packages")

    def apply(self, edits: Sequence[Edit]) -> dict[Path, str]:
        """Make the edits; returns what the files were."""
        before: dict[Path, str] = {}
        for edit in edits:
            path = self.root / edit.file
            text = path.read_text()
            before.setdefault(path, text)
            assert text.count(edit.old) == 1, f"{edit.file}: {text.count(edit.old)} times: {edit.old}"
            path.write_text(text.replace(edit.old, edit.new))
        return before

    def test(self, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run tests on the copy as it is."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--no-header",
            *tests,
        ]
        return subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )

    def judge(self, mutant: Mutant) -> Result:
        """Kill a mutant, or not."""
        began = time.monotonic()
        before = self.apply(mutant.edits)
        try:
            tested = self.test(mutant.tests)
        finally:
            for path, text in before.items():
                path.write_text(text)
        verdict = {0: "survived", _FAILED: "killed"}.get(tested.returncode, "broken")
        said = next((line for line in tested.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
        if verdict == "broken":
            said = tested.stdout[-2000:] + tested.stderr[-1000:]
        return Result(mutant.name, verdict, round(time.monotonic() - began, 1), said)

    def close(self) -> None:
        forget(self.root / ".local")
        shutil.rmtree(self.root)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="./dev mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutants (default: all)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="copies tested side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--list", action="store_true", help="name the mutants")
    parser.add_argument(
        "--skip-check", action="store_true", help="do not first run the tests without a mutant"
    )
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """0 if every mutant was killed."""
    options = arguments(words)
    mutants = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.list or not mutants:
        print(*(mutant.name for mutant in MUTANTS), sep="\n")
        return 0 if options.list else 2
    copies: SimpleQueue[Copy] = SimpleQueue()
    made = [Copy(Path(tempfile.mkdtemp(prefix="mutants-"))) for _ in range(min(options.jobs, len(mutants)))]
    for copy in made:
        copies.put(copy)

    def judge(mutant: Mutant) -> Result:
        copy = copies.get()
        try:
            return copy.judge(mutant)
        finally:
            copies.put(copy)

    results: list[Result] = []
    try:
        if not options.skip_check and not passes(made[0], mutants):
            return 2
        with ThreadPoolExecutor(len(made)) as pool:
            for result in pool.map(judge, mutants):
                results.append(result)
                print(
                    f"{result.verdict:9}{result.seconds:7.1f} s  {result.name}  {result.said[:160]}",
                    flush=True,
                )
                if result.verdict == "broken":
                    print(result.said, flush=True)
    finally:
        for copy in made:
            copy.close()
    killed = sum(result.verdict == "killed" for result in results)
    print(
        f"{killed} of {len(results)} mutants killed, in {sum(result.seconds for result in results):.0f} s of tests"
    )
    if options.json is not None:
        figures = {"killed": killed, "total": len(results), "mutants": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if killed == len(results) else 1


def passes(copy: Copy, mutants: Sequence[Mutant]) -> bool:
    """Whether all the tests pass without a mutant: else their failing would prove nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    whole = [test for test in tests if not any(test.startswith(f"{other}::") for other in tests)]
    began = time.monotonic()
    tested = copy.test(whole)
    print(
        f"{'passes' if tested.returncode == 0 else 'FAILS'}   {time.monotonic() - began:7.1f} s  without a mutant",
        flush=True,
    )
    if tested.returncode != 0:
        print(tested.stdout[-3000:])
    return tested.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

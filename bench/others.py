"""The benches that were there before the frame, by their names: each runs as the program it is."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from deploy.migrations import CHECKOUT


class Program:
    """A bench that is a program of its own: `python -m MODULE`, with its own further options."""

    def __init__(self, name: str, module: str, flags: Sequence[tuple[str, str]], about: str) -> None:
        self.NAME = name
        self.module = module
        self.flags = flags
        self.__doc__ = about

    def options(self, parser: argparse.ArgumentParser) -> None:
        """What is passed on."""
        for flag, text in self.flags:
            parser.add_argument(flag, help=text)

    async def run(self, options: argparse.Namespace) -> int:
        """Run it; its exit code."""
        command = [sys.executable, "-m", self.module]
        if options.json is not None:
            command += ["--json", str(options.json.resolve())]
        for flag, _ in self.flags:
            value = getattr(options, flag.removeprefix("--").replace("-", "_"))
            command += [flag, value] if value is not None else []
        child = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT)
        return await child.wait()


LEDGER = Program(
    "ledger",
    "bench.ledger",
    (("--wallets", "how many"), ("--sizes", "commands per batch, several with commas"), ("--connections", "several with commas"),
     ("--rounds", "how often"), ("--commands", "commands per round")),
    "commit_batch with everything on, against the limit of no logic at all.",
)  # fmt: skip
TRANSPORT = Program(
    "transport",
    "bench.transport",
    (("--events", "how many"), ("--url", "a broker with the topics declared")),
    "What the transport costs: Faust's own drain against ours, our rates against bare rstream's.",
)

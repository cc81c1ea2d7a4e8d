"""`./dev run` without its demo, as a child of a test: the whole system, ready."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

RUN = """
import asyncio, sys
from pathlib import Path
from deploy import supervisor

options = {"seconds": None, "demo": False, "fresh": False, "json": None, "docker": False}
plan = supervisor.Plan(**options, workers=int(sys.argv[2]), local=Path(sys.argv[1]))
sys.exit(asyncio.run(supervisor.run(plan)))
"""


@contextmanager
def system(
    local: Path, *, workers: int = 2, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The running system, with its files under `local`, and the lines it has printed until it was ready.

    `environment` adds to ours: servers named there are used. In the end the system is killed.
    """
    command = [sys.executable, "-c", RUN, str(local), str(workers)]
    env = {**os.environ, **(environment or {})}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line)
            if "logs " in line:
                break
        try:
            assert any(line.endswith("] ready\n") for line in lines), "".join(lines)
            yield running, lines
        finally:
            running.kill()


def settings(local: Path) -> dict[str, str]:
    """The settings of the system that runs on `local`, by name."""
    lines = (local / "run" / "env").read_text().splitlines()
    words = (shlex.split(line)[1].partition("=") for line in lines)
    return {name: value for name, _, value in words}

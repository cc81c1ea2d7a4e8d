"""`./dev run` as a whole: ready, serving, and gone without a trace when it is told to go or killed."""

import signal
import time
from pathlib import Path

import psutil

from tests.system import system


def survivors(processes: list[psutil.Process]) -> list[list[str]]:
    """Command lines of those that still run after ten seconds."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [process.cmdline() for process in alive]


def test_ctrl_c_ends_the_whole_system_in_time(local: Path) -> None:
    with system(local) as (running, _):
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) > 8
        started = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 0
        assert time.monotonic() - started < 15
        assert survivors(family) == []


def test_a_second_start_is_quick_and_a_killed_supervisor_takes_everything_with_it(local: Path) -> None:
    with system(local) as (running, _):
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 0
    started = time.monotonic()
    with system(local) as (running, lines):
        assert time.monotonic() - started < 15, "".join(lines)
        family = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        assert survivors(family) == []

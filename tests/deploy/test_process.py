"""Child processes end when asked, when they refuse, and when we are gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from deploy.local.process import Process, ServerError

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(60)
"""
ORPHAN = """
import sys, time
from pathlib import Path
from deploy.local.process import Process
child = Process("child", [sys.executable, "-c", "import time; time.sleep(60)"], log=Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def python(code: str, log: Path) -> Process:
    return Process("child", [sys.executable, "-c", code], log=log)


async def test_a_child_that_ignores_the_request_is_killed_after_the_deadline(tmp_path: Path) -> None:
    child = python(STUBBORN, tmp_path / "log")
    child.start()

    async def printed() -> bool:
        return "here" in child.log_tail()

    await child.wait_until(printed, deadline_s=10)
    started = time.monotonic()
    await child.stop(deadline_s=0.3)
    assert child.exit_code == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - started < 3


async def test_a_child_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    child = python("raise SystemExit('no such port')", tmp_path / "log")
    child.start()

    async def never() -> bool:
        return False

    with pytest.raises(ServerError, match="child ended with 1 while starting:\nno such port"):
        await child.wait_until(never, deadline_s=10)


def test_a_child_is_started_from_the_main_thread_only(tmp_path: Path) -> None:
    child, problems = python("pass", tmp_path / "log"), []

    def start() -> None:
        try:
            child.start()
        except ServerError as error:
            problems.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert problems == ["child must be started from the main thread: it dies with its starter"]


def test_a_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    child.wait(timeout=5)
    assert not child.is_running()

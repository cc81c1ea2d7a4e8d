"""A child process that cannot outlive us: own process group, own log file, stopped within a deadline.

The kernel kills the child when the *thread* that started it ends, so start children from the main thread
only. Everything is addressed by pid through the handle; nothing is ever killed by name.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_S = 0.02


class ServerError(RuntimeError):
    """A server could not be set up, started or stopped. The message is a sentence for the user."""


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system user a child runs as."""

    uid: int
    gid: int


@dataclass(slots=True)
class Process:
    """One child: `start`, then `wait_until` it answers, then `stop`.

    `log` receives both output streams, appended. `stop_signal` asks for a clean end; `death_signal` is what
    the kernel sends when we die without asking.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    inherit_output: bool = False
    _child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running child.

        Errors: ServerError when it was never started.
        """
        if self._child is None:
            raise ServerError(f"{self.name} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """True while the child has not ended (it is reaped on the way)."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the ended child (negative: the signal), None while running or before."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start the child and return at once.

        Errors: ServerError when it runs already, or when called outside the main thread.
        """
        if self.running:
            raise ServerError(f"{self.name} is running already (pid {self.pid})")
        if threading.current_thread() is not threading.main_thread():
            raise ServerError(f"{self.name} must be started from the main thread: it dies with its starter")
        account = self.account or Account(-1, -1)
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(self.death_signal))]
        command = [*launcher, str(account.uid), str(account.gid), *self.command]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            output = None if self.inherit_output else log
            self._child = subprocess.Popen(
                command,
                env=dict(self.env or os.environ),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], *, deadline_s: float) -> None:
        """Return when `ready()` is true.

        Errors: ServerError with the end of the log when the child ends first or the deadline passes.
        """
        end = time.monotonic() + deadline_s
        while not await ready():
            if not self.running:
                raise ServerError(
                    f"{self.name} ended with {self.exit_code} while starting:\n{self.log_tail()}"
                )
            if time.monotonic() > end:
                raise ServerError(f"{self.name} did not answer in {deadline_s:.0f} s:\n{self.log_tail()}")
            await asyncio.sleep(_POLL_S)

    async def stop(self, *, deadline_s: float = 10) -> None:
        """Ask the child to end; after the deadline, kill it and what is left of its process group."""
        if self._child is None:
            return
        if self.running:
            self._child.send_signal(self.stop_signal)
            self._child.send_signal(signal.SIGCONT)
            end = time.monotonic() + deadline_s
            while self.running and time.monotonic() < end:
                await asyncio.sleep(_POLL_S)
        self.kill9()

    def kill9(self) -> None:
        """SIGKILL the child's whole process group and reap it; harmless when it has ended."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):  # the group has ended: that is the wanted state
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to the child alone (SIGSTOP and SIGCONT in fault tests)."""
        if self._child is not None:
            self._child.send_signal(signal_number)

    def log_tail(self, lines: int = 25) -> str:
        """The last lines the child wrote."""
        if not self.log.exists():
            return "(no output)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


async def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    stdin: str | None = None,
    deadline_s: float = 120,
) -> str:
    """Run a short command to its end in a thread and return its standard output.

    Errors: ServerError with its error output when it fails or takes longer than the deadline.
    """

    def call() -> str:
        try:
            done = subprocess.run(
                list(command),
                env=None if env is None else dict(env),
                cwd=cwd,
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                timeout=deadline_s,
                check=False,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{command[0]} took longer than {deadline_s:.0f} s") from None
        except OSError as error:
            raise ServerError(f"{command[0]} could not be run: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise ServerError(f"{command[0]} ended with {done.returncode}: {said}")
        return done.stdout

    return await asyncio.to_thread(call)

"""One function per `./dev` command: parsed options in, exit code out."""

import argparse
import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy import checks, supervisor
from deploy.local.postgres import installation
from deploy.local.process import ServerError
from deploy.local.stack import LOCAL, Stack
from deploy.migrations import CHECKOUT

_ROLE_URLS = {
    "readonly": "DATABASE_READONLY_URL",
    "operator": "DATABASE_URL",
    "web": "DATABASE_WEB_URL",
    "worker": "DATABASE_WORKER_URL",
    "migrator": "DATABASE_DIRECT_URL",
    "admin": "DATABASE_ADMIN_URL",
}


def run(options: argparse.Namespace) -> int:
    """The whole system; the demo's exit code."""
    plan = supervisor.Plan(
        seconds=options.seconds,
        demo=not options.no_demo,
        fresh=options.fresh,
        json=options.json and Path(options.json).resolve(),
        workers=options.workers or os.cpu_count() or 1,
        docker=options.docker,
        trace=options.trace,
    )
    return asyncio.run(supervisor.run(plan))


def up(options: argparse.Namespace) -> int:
    """The servers alone, until Ctrl-C or SIGTERM."""

    async def hold() -> None:
        stopping = asyncio.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
        async with Stack(fresh=options.fresh) as stack:
            print(*(f"{name}={value}" for name, value in stack.environ().items()), sep="\n")
            print("the servers are up; Ctrl-C stops them", flush=True)
            await stopping.wait()

    asyncio.run(hold())
    return 0


def test(options: argparse.Namespace) -> int:
    """pytest on all tests, or as its own arguments say."""
    arguments = options.rest
    if not any(argument.startswith(("-n", "--numprocesses")) for argument in arguments):
        arguments = ["-n", "2", *arguments]
    return _tool([sys.executable, "-m", "pytest", *arguments])


def faults(options: argparse.Namespace) -> int:
    """Faults on a system of its own, from a seed; 1 if anything came out wrong."""
    return _tool([sys.executable, "-m", "bench.faults", *options.rest])


def security(options: argparse.Namespace) -> int:
    """Attacks on a system of its own; 1 if a bound is broken."""
    return _tool([sys.executable, "-m", "bench.security", *options.rest])


def simulate(options: argparse.Namespace) -> int:
    """Seeds of the simulated pipeline; 1 if one failed."""
    return _tool([sys.executable, "-m", "tests.simulation", *options.rest])


def mutants(options: argparse.Namespace) -> int:
    """Every mutant in a private copy; 1 if the tests miss one."""
    return _tool([sys.executable, "-m", "tests.mutants", *options.rest])


def bench(options: argparse.Namespace) -> int:
    """One bench; its own arguments follow its name."""
    return _tool([sys.executable, "-m", "bench", *options.rest])


def check(options: argparse.Namespace) -> int:
    """Everything that needs no server."""
    return asyncio.run(checks.run(fix=options.fix))


def env(options: argparse.Namespace) -> int:
    """The running stack's addresses."""
    del options
    print(_exports(), end="")
    return 0


def reconcile(options: argparse.Namespace) -> int:
    """`python -m agents.reconcile` on the running stack, or on what the environment names."""
    given = os.environ if "DATABASE_URL" in os.environ else {**running(), **os.environ}
    return _tool([sys.executable, "-m", "agents.reconcile", *options.rest], environment=dict(given))


def queue(options: argparse.Namespace) -> int:
    """`python -m deploy.queue` on the running stack, or on what the environment names."""
    itself = "DATABASE_URL" in os.environ or {"-h", "--help"} & set(options.rest)
    given = os.environ if itself else {**running(), **os.environ}
    return _tool([sys.executable, "-m", "deploy.queue", *options.rest], environment=dict(given))


def audit(options: argparse.Namespace) -> int:
    """`python -m deploy.audit` on the running stack, or on what the environment names."""
    itself = "DATABASE_URL" in os.environ or {"-h", "--help"} & set(options.rest)
    given = os.environ if itself else {**running(), **os.environ}
    return _tool([sys.executable, "-m", "deploy.audit", *options.rest], environment=dict(given))


def verify(options: argparse.Namespace) -> int:
    """The invariants, by name; the rows of each that does not hold."""
    from sql import invariants

    url = options.url or _setting("DATABASE_READONLY_URL", "DATABASE_URL")
    violations = asyncio.run(invariants.check(url))
    for violation in violations:
        print(violation)
    print(f"{len(violations)} of {len(invariants.NAMES)} invariants violated")
    return 1 if violations else 0


def trace(options: argparse.Namespace) -> int:
    """One payment's trace as a table, and as a picture."""
    from deploy.observability import traces

    spans = traces.read(LOCAL / "run" / "spans.jsonl")
    found = traces.find(spans, options.subject)
    if found is None:
        raise ServerError("no such trace: only some requests are traced, and only by ./dev run --trace")
    steps = traces.steps(spans, found)
    print(traces.table(steps))
    if options.svg is not None:
        options.svg.write_text(traces.picture(steps))
    return 0


def psql(options: argparse.Namespace) -> int:
    """Become psql."""
    url = _setting(_ROLE_URLS[options.role], "DATABASE_URL")
    program = installation() / "bin" / "psql"
    os.execv(program, [str(program), url, *options.rest])


def events(options: argparse.Namespace) -> int:
    """The event types' schemas."""
    del options
    return _tool([sys.executable, "-m", "streams.schema"])


def lock(options: argparse.Namespace) -> int:
    """The same lock on every machine: none of its package index settings count, and none are written down."""
    del options
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    command = [str(Path(sys.executable).with_name("uv")), "--no-config", "pip", "compile", "pyproject.toml"]
    command += ["--universal", "--generate-hashes", "--no-header", "--all-extras", "--quiet"]
    return _tool([*command, "-o", "requirements.lock"], environment=clean)


def _tool(command: Sequence[str], *, environment: dict[str, str] | None = None) -> int:
    return subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode


def _exports() -> str:
    file = LOCAL / "run" / "env"
    if not file.exists():
        raise ServerError("no local stack is running here: start one with ./dev run or ./dev up")
    return file.read_text()


def _setting(*names: str) -> str:
    """The first of `names` in our environment, else of the running stack."""
    given = [os.environ[name] for name in names if name in os.environ]
    if given:
        return given[0]
    found = running()
    return next(found[name] for name in names if name in found)


def running() -> dict[str, str]:
    """The running stack's settings. Errors: ServerError if none runs."""
    words = [shlex.split(line)[1].partition("=") for line in _exports().splitlines()]
    return {name: value for name, _, value in words}

"""`./dev check`: every tool that needs no server, side by side, one line each; output only on failure."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.migrations import CHECKOUT

PACKAGES = ("agents", "bench", "client", "deploy", "domain", "gateway", "sql", "streams", "tables", "web")


@dataclass(frozen=True, slots=True)
class Check:
    """One tool of the virtual environment and its arguments."""

    name: str
    tool: str
    arguments: Sequence[str]
    fix: Sequence[str] | None = None  # arguments that correct instead of complaining


_COMPOSE = ["--file", "compose.yaml", "--file", "compose.simulator.yaml"]
_CONFIG = ["--env-file", "deploy/images/compose.env.example", "config", "--quiet"]


def _checks(files: Sequence[str]) -> list[Check]:
    packages = [package for package in PACKAGES if (CHECKOUT / package).is_dir()]
    texts = [file for file in files if file != "requirements.lock"]  # nothing but hashes
    statements = [file for file in files if file.endswith(".sql") and file.startswith("sql/")]
    return [
        Check("types", "mypy", [*packages, "tests"]),
        Check("lint", "ruff", ["check", "."], ["check", "--fix", "."]),
        Check("format", "ruff", ["format", "--check", "."], ["format", "."]),
        Check("import contracts", "lint-imports", []),
        Check("SQL lint", "sqlfluff", ["lint", "--nocolor", *statements]),
        Check("security lint", "bandit", ["--quiet", "--configfile", "pyproject.toml", "-r", *packages]),
        Check(
            "secrets scan",
            "betterleaks",
            ["--no-banner", "--no-color", "--log-level=warn", "--confidence=medium", "--redact", *texts],
        ),
        Check("Dockerfile", "hadolint", ["Dockerfile"]),
        Check("compose.yaml", "docker-compose", [*_COMPOSE, *_CONFIG]),
        Check(
            "compose.observe.yaml", "docker-compose", [*_COMPOSE, "--file", "compose.observe.yaml", *_CONFIG]
        ),
        Check("API description", "python", ["-m", "web.openapi", "--check"]),
        Check("event schemas", "python", ["-m", "streams.schema", "--check"]),
    ]


async def run(*, fix: bool = False) -> int:
    """Run every check; 0 when all pass. With `fix`, the linters first correct what they can."""
    started = time.monotonic()
    checks = _checks(await _project_files())
    if fix:
        for check in checks:
            if check.fix is not None:
                await _output(check.tool, check.fix)
    at_once = asyncio.Semaphore(os.cpu_count() or 1)
    results = await asyncio.gather(*(_judge(check, at_once) for check in checks))
    failed = [name for name, passed in results if not passed]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all checks passed"
    print(f"{verdict} ({time.monotonic() - started:.1f} s)")
    return 1 if failed else 0


async def _judge(check: Check, at_once: asyncio.Semaphore) -> tuple[str, bool]:
    async with at_once:
        started = time.monotonic()
        code, output = await _output(check.tool, check.arguments)
    verdict = "ok" if code == 0 else "FAILED"
    print(f"{check.name:<18}{time.monotonic() - started:6.1f} s  {verdict}", flush=True)
    if code != 0:
        print(output.strip(), flush=True)
    return check.name, code == 0


async def _output(tool: str, arguments: Sequence[str]) -> tuple[int, str]:
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        return 127, f"{tool} is not installed in the virtual environment"
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        cwd=CHECKOUT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def _project_files() -> list[str]:
    """Files of the project, committed or about to be: what is ignored is nobody's business."""
    process = await asyncio.create_subprocess_exec(
        "git", "ls-files", "--cached", "--others", "--exclude-standard",
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    return [file for file in output.decode().splitlines() if (CHECKOUT / file).is_file()]

"""wrk, from Debian's packages unpacked into a private directory; and a generator of our own where that cannot be.

Both keep so many connections busy: the next request goes out when the answer to the last one is here.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.frame import say
from bench.lines import Lines
from deploy.local import debian
from deploy.local.process import ServerError, run
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT

_SCRIPT: Final = """\
local paths, turn = {}, 0
for line in io.lines(os.getenv("WRK_PATHS")) do paths[#paths + 1] = line end
request = function()
  turn = turn % #paths + 1
  return wrk.format("GET", paths[turn])
end
done = function(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}\\n',
    summary.requests, summary.duration / 1e6, bad + summary.errors.status,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Generator:
    """What loads the web process; `wrk` is None where our own has to do."""

    wrk: Path | None

    @classmethod
    async def find(cls) -> Generator:
        """wrk if it can be had."""
        try:
            root = await debian.unpacked(
                LOCAL, "wrk", ["wrk"], way_out="Our own generator takes its place.", report=say, without=()
            )
        except ServerError as error:
            say(f"no wrk: {error}")
            return cls(None)
        return cls(root / "usr" / "bin" / "wrk")

    @property
    def name(self) -> str:
        """Which it is."""
        return "our own" if self.wrk is None else "wrk"

    async def load(
        self, url: str, paths: Sequence[str], token: str, directory: Path, *, connections: int, seconds: float
    ) -> dict[str, Any]:
        """GET the paths in turn: requests, seconds, failed ones, p50 and p99 in ms, the generator's CPU seconds."""
        file = directory / "paths.txt"
        file.write_text("\n".join(paths) + "\n")
        script = directory / "wrk.lua"
        script.write_text(_SCRIPT)
        if self.wrk is None:
            command = [sys.executable, "-m", "bench.wrk", url, str(connections), str(seconds)]
        else:
            command = [
                str(self.wrk),
                "-t1",
                f"-c{connections}",
                f"-d{max(1, round(seconds))}s",
                "--timeout",
                "10s",
            ]
            command += ["-s", str(script), "-H", f"authorization: Bearer {token}", url]
        environment = {**os.environ, "WRK_PATHS": str(file), "WRK_TOKEN": token}
        before = _children_cpu_s()
        said = await run(command, env=environment, cwd=CHECKOUT, deadline_s=seconds + 60)
        found: dict[str, Any] = json.loads(
            next(line for line in reversed(said.splitlines()) if line.startswith("{"))
        )
        return found | {"cpu_s": _children_cpu_s() - before}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _status(lines: Lines, path: str, token: str) -> int:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def answered(status: int, _: bytes) -> None:
        answer.set_result(status)

    lines.ask("GET", path, f"authorization: Bearer {token}\r\n", b"", answered)
    return await answer


async def own(
    url: str, paths: Sequence[str], token: str, connections: int, seconds: float
) -> dict[str, float]:
    """Our own closed loop; the figures as wrk's."""
    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    took, failed, turn = array.array("d"), 0, 0
    until = time.perf_counter() + seconds

    async def keep_asking() -> None:
        nonlocal failed, turn
        lines = await Lines.connect(host, port, 1)
        while (began := time.perf_counter()) < until:
            turn += 1
            status = await _status(lines, paths[turn % len(paths)], token)
            failed += status != 200
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking() for _ in range(connections)))
    ordered = sorted(took)
    return {
        "requests": len(ordered),
        "seconds": time.perf_counter() - began,
        "failed": failed,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    import uvloop

    lines = Path(os.environ["WRK_PATHS"]).read_text().split()
    print(
        json.dumps(
            uvloop.run(own(sys.argv[1], lines, os.environ["WRK_TOKEN"], int(sys.argv[2]), float(sys.argv[3])))
        )
    )

"""The private servers as one: they keep their data, let go of it when told, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from deploy.broker import Management
from deploy.local.process import ServerError
from deploy.local.stack import Stack

RUN = """
import asyncio, signal, sys
from pathlib import Path
from deploy.local.stack import Stack

async def main():
    async with Stack(Path(sys.argv[1]), given={}, fast=True):
        print("up", flush=True)
        await asyncio.sleep(120)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever was started in the background ignores it
asyncio.run(main())
"""


async def put(stack: Stack) -> None:
    """Leave a mark in each of the three servers."""
    urls = stack.environ()
    connection = await asyncpg.connect(urls["DATABASE_DIRECT_URL"])
    await connection.execute("CREATE TABLE mark AS SELECT 1 AS one")
    await connection.close()
    async with Redis.from_url(urls["REDIS_URL"]) as cache:
        await cache.set("mark", "1")
    async with Management(urls["STREAM_MANAGEMENT_URL"]) as management:
        await management.request("PUT", "/api/vhosts/mark", {})


async def marks(stack: Stack) -> dict[str, bool]:
    """Which servers still hold the mark."""
    urls = stack.environ()
    connection = await asyncpg.connect(urls["DATABASE_DIRECT_URL"])
    table = await connection.fetchval("SELECT to_regclass('mark') IS NOT NULL")
    await connection.close()
    async with Redis.from_url(urls["REDIS_URL"]) as cache:
        key = await cache.get("mark") is not None
    async with Management(urls["STREAM_MANAGEMENT_URL"]) as management:
        vhost = any(vhost["name"] == "mark" for vhost in await management.request("GET", "/api/vhosts"))
    return {"postgres": table, "valkey": key, "rabbitmq": vhost}


async def test_data_and_addresses_survive_a_restart_and_fresh_drops_the_data(local: Path) -> None:
    async with Stack(local, given={}) as stack:
        addresses = stack.environ()
        assert "export DATABASE_URL=" in (local / "run" / "env").read_text()
        await put(stack)
    assert not (local / "run" / "env").exists()

    started = time.monotonic()
    async with Stack(local, given={}) as stack:
        assert time.monotonic() - started < 15
        assert stack.environ() == addresses
        assert await marks(stack) == {"postgres": True, "valkey": True, "rabbitmq": True}

    async with Stack(local, given={}, fresh=True) as stack:
        assert await marks(stack) == {"postgres": False, "valkey": False, "rabbitmq": False}


async def test_servers_given_by_url_are_used_and_none_is_started(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://a", "STREAM_URL": "rabbitmq-stream://b", "REDIS_URL": "redis://c"}
    before = psutil.Process().children()
    async with Stack(tmp_path, given={**given, "HOME": "elsewhere"}) as stack:
        assert stack.environ() == given
        assert psutil.Process().children() == before


async def test_a_second_stack_of_the_same_checkout_is_refused(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://a", "STREAM_URL": "rabbitmq-stream://b", "REDIS_URL": "redis://c"}
    async with Stack(tmp_path, given=given):
        with pytest.raises(ServerError, match=f"runs already \\(process {os.getpid()}\\)"):
            await Stack(tmp_path, given=given).start()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_stack(local: Path, signal_number: signal.Signals) -> None:
    command = [sys.executable, "-c", RUN, str(local)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        names = {child.name() for child in children}
        assert {"postgres", "valkey-server"} <= names
        os.kill(parent.pid, signal_number)
        parent.wait(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child.cmdline() for child in alive] == []

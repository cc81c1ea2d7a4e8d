"""The commands behind `./dev`."""

import argparse
import asyncio
import signal
import sys

from deploy.local.process import ServerError
from deploy.local.stack import Stack


async def up(*, fresh: bool) -> int:
    """Run the servers alone, in the foreground, until Ctrl-C; prints their addresses."""
    stopping = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    async with Stack(fresh=fresh) as stack:
        for name, value in stack.environ().items():
            print(f"{name}={value}")
        print("servers are up; Ctrl-C stops them", flush=True)
        await stopping.wait()
    return 0


def main(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(prog="./dev", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="the servers alone, in the foreground")
    up_parser.add_argument("--fresh", action="store_true", help="drop local data first")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(up(fresh=options.fresh))
    except* ServerError as errors:
        for error in errors.exceptions:
            print(f"./dev: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

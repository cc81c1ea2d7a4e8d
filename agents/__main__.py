"""`python -m agents --name NAME`: one worker, from the environment's settings, until SIGTERM."""

import argparse

from agents.worker import build
from streams import telemetry
from streams.app import run_worker


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agents", description=__doc__)
    parser.add_argument(
        "--name", default="worker", help="tells this worker from the others in logs and chains"
    )
    args = parser.parse_args()
    telemetry.start(f"worker-{args.name}")
    run_worker(build(args.name))


if __name__ == "__main__":
    main()

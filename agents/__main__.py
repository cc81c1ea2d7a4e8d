"""`python -m agents --name NAME`: one worker, from the environment's settings, until SIGTERM."""

import argparse
import logging

import structlog

from agents.worker import build
from streams.app import run_worker


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agents", description=__doc__)
    parser.add_argument(
        "--name", default="worker", help="tells this worker from the others in logs and chains"
    )
    args = parser.parse_args()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    run_worker(build(args.name))


if __name__ == "__main__":
    main()

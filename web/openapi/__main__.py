"""Write docs/openapi.json, or with --check say whether it is stale."""

import argparse
import sys
from pathlib import Path
from typing import Final

from web.openapi.document import encoded
from web.router import POLICY, ROUTES

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m web.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is stale")
    now = encoded(ROUTES, POLICY)
    if not parser.parse_args().check:
        FILE.write_bytes(now)
        return 0
    if FILE.exists() and FILE.read_bytes() == now:
        return 0
    print("stale: docs/openapi.json (python -m web.openapi writes it)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Bring a database to the newest schema with dbmate, as the migrator role on the direct URL."""

import hashlib
import sys
from pathlib import Path

from deploy.local.process import ServerError, run

CHECKOUT = Path(__file__).resolve().parent.parent
DIRECTORY = CHECKOUT / "sql" / "migrations"


def fingerprint() -> str:
    """A short name for the present set of migrations; it changes with any byte of them."""
    digest = hashlib.sha256()
    for file in sorted(DIRECTORY.glob("*.sql")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


async def migrate(direct_url: str) -> None:
    """Apply what is missing.

    Errors: ServerError with dbmate's message.
    """
    if not any(DIRECTORY.glob("*.sql")):
        raise ServerError(f"no migrations in {DIRECTORY.relative_to(CHECKOUT)}")
    dbmate = Path(sys.executable).with_name("dbmate")
    options = ["--url", direct_url, "--migrations-dir", str(DIRECTORY), "--no-dump-schema"]
    await run([str(dbmate), *options, "migrate"], cwd=CHECKOUT)

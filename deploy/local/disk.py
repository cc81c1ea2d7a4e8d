"""A disk that is small enough to be filled: a tmpfs over a directory of a private server. Only root may mount one."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.process import Account, ServerError, run

MAY_MOUNT = os.geteuid() == 0


@asynccontextmanager
async def small_disk(directory: Path, *, mb: int, account: Account | None = None) -> AsyncIterator[None]:
    """Mount an empty disk of so many MiB there for the block; what was written to it is gone afterwards.

    Errors: ServerError when we are not root, or the kernel does not allow it.
    """
    if not MAY_MOUNT:
        raise ServerError("a full disk needs a small tmpfs, and only root may mount one")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = "" if account is None else f",uid={account.uid},gid={account.gid}"
    await run(["mount", "-t", "tmpfs", "-o", f"size={mb}m,mode=0700{owner}", "none", str(directory)])
    try:
        yield
    finally:
        await run(["umount", "-l", str(directory)])


def mounts_below(directory: Path) -> list[Path]:
    """The mounts below a directory that a killed process left, innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [Path(line.split()[1]) for line in lines]
    return sorted((path for path in found if path.is_relative_to(directory)), reverse=True)

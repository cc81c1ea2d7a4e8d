"""What the tests of deploy share: a checkout's ignored directory other than ours."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.home import forget
from deploy.local.rabbitmq import fetch
from deploy.local.stack import LOCAL


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Path]:
    """The ignored directory of another checkout: under a 0700 directory, with the packages already there."""
    assert tmp_path.parent.stat().st_mode & 0o077 == 0
    await fetch(LOCAL, print)
    directory = tmp_path / ".local"
    directory.mkdir()
    (directory / "packages").symlink_to(LOCAL / "packages")
    yield directory
    forget(directory)

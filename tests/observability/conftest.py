"""A house per test: its own database, virtual host and processes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .house import House, house


@pytest.fixture
async def observed(database: Any, broker: Any, tmp_path: Path) -> AsyncIterator[House]:
    """The running system, everything traced, told and kept in the test's sinks."""
    async with house(tmp_path, database.url, broker.url, broker.admin_url) as built:
        yield built

"""The database as this floor's tests use it: our pool as core_app, and a superuser to look and tamper."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql.db import Database, DatabaseSettings
from tests.conftest import Database as Prepared


@pytest.fixture
async def db(database: Prepared) -> AsyncIterator[Database]:
    """Our pool."""
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as pool:
        yield pool


@pytest.fixture
async def admin(database: Prepared) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """The superuser."""
    connection = await asyncpg.connect(database.admin_url)
    yield connection
    await connection.close()

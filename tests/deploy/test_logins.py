"""Our processes: each logs in to PostgreSQL as itself and knows nobody else's login."""

from pathlib import Path

import pytest

from deploy.services import python

URLS = {
    "DATABASE_URL": "operator",
    "DATABASE_WEB_URL": "web",
    "DATABASE_WORKER_URL": "worker",
    "DATABASE_ADMIN_URL": "admin",
    "DATABASE_DIRECT_URL": "migrator",
    "DATABASE_POOL_SIZE": "4",
    "REDIS_URL": "redis",
}


@pytest.mark.parametrize(("module", "own"), [("web", "web"), ("agents", "worker")])
def test_a_process_has_its_own_login_and_no_other(module: str, own: str) -> None:
    environment = dict(python("x", [module], URLS, Path()).env)
    assert environment == {"DATABASE_URL": own, "DATABASE_POOL_SIZE": "4", "REDIS_URL": "redis"}


def test_a_database_of_one_login_is_everybody_s() -> None:
    given = {"DATABASE_URL": "given"}
    assert dict(python("x", ["web"], given, Path()).env) == given
    assert dict(python("x", ["bench.demo"], URLS, Path()).env) == URLS

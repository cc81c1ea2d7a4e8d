"""A hundred seeds of the simulated pipeline: nothing lost, nothing twice, the specification's books, repeatable.

CORE_SIMULATION_SEEDS is how many seeds each of two tests plays (50). `./dev simulate` plays more.
"""

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from deploy.local.postgres import SUPERUSER
from deploy.migrations import fingerprint
from tests.conftest import Servers
from tests.simulation.nemesis import FAILPOINTS
from tests.simulation.places import make_template, table
from tests.simulation.simulation import Verdict

pytestmark = pytest.mark.timeout(300)
SEEDS = int(os.environ.get("CORE_SIMULATION_SEEDS", "50"))
RARE = 6
"""So many kinds of faults may be missing from a few seeds; `./dev simulate` shows that over enough none is."""


@pytest.fixture(scope="session")
def virtual_template(servers: Servers) -> str:
    """A migrated database with a run's own clock; the first process to ask makes it."""
    name = f"virtual_{fingerprint()}"
    with (servers.directory / "virtual.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = servers.directory / name
        if not done.exists():
            asyncio.run(make_template(servers.postgres, name))
            done.touch()
    return name


@pytest.fixture
def play(servers: Servers, virtual_template: str) -> Iterator[Callable[[int], Verdict]]:
    """Plays a seed."""
    postgres, name = servers.postgres, f"simulation_{uuid4().hex}"
    asyncio.run(postgres.create_database(name, template=virtual_template))
    with table(postgres.url("core_app", name), postgres.url(SUPERUSER, name)) as playing:
        yield playing
    asyncio.run(postgres.drop_database(name))


@pytest.mark.parametrize("half", [0, 1])
def test_whatever_breaks_everything_comes_to_the_specified_end_and_a_replay_changes_nothing(
    play: Callable[[int], Verdict], half: int
) -> None:
    fired: Counter[str] = Counter()
    for seed in range(half * SEEDS, (half + 1) * SEEDS):
        verdict = play(seed)
        assert not verdict.wrong, f"./dev simulate --seeds {seed}..{seed} --trace: {verdict.wrong}"
        fired += verdict.fired
    missing = [name for name in FAILPOINTS if not fired[name]]
    assert SEEDS < 50 or len(missing) <= RARE, missing

"""The database names a key's partition as the streams do."""

import random

from streams.topics import partition_of

from .conftest import Office


async def test_the_databases_partition_of_a_key_is_the_streams(office: Office) -> None:
    chance = random.Random(1)
    keys = [
        "",
        "a",
        "ab",
        "abc",
        "abcd",
        "ключ",
        "₹",
        *(chance.randbytes(n).hex()[:n] for n in range(1, 200)),
    ]
    rows = await office.admin.fetch(
        "SELECT partition_of(k, 16) AS p FROM unnest($1::text[]) WITH ORDINALITY AS x (k, n) ORDER BY n", keys
    )
    assert [row["p"] for row in rows] == [partition_of(key, 16) for key in keys]

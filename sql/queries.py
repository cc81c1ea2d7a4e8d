"""Named queries: `sql/<subject>.sql` holds paste-able statements, each headed `-- name: verb_noun(param, …)`.

The parameters of the header are those of the statement, in the order of its $1, $2, …; a header that disagrees
with its statement fails when the module is loaded, not in production.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

_HEADER: Final = re.compile(
    r"^-- name: (?P<name>[a-z][a-z0-9_]*)\((?P<params>[a-z0-9_, ]*)\)\s*$", re.MULTILINE
)


class QueryError(ValueError):
    """A named query's header and its statement disagree."""


def parse(text: str) -> Mapping[str, str]:
    """Statements by name. Errors: QueryError for a header that names other parameters than the statement uses."""
    queries: dict[str, str] = {}
    headers = list(_HEADER.finditer(text))
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        body = text[header.end() : following.start() if following else len(text)]
        statement = (
            "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")
        )
        params = [param.strip() for param in header["params"].split(",") if param.strip()]
        used = {int(number) for number in re.findall(r"\$(\d+)", statement)}
        if used != set(range(1, len(params) + 1)):
            raise QueryError(
                f"{header['name']}: the header names {params}, the statement uses {sorted(used)}"
            )
        if header["name"] in queries:
            raise QueryError(f"{header['name']} is defined twice")
        queries[header["name"]] = statement
    return MappingProxyType(queries)


def load(subject: str) -> Mapping[str, str]:
    """The statements of `sql/<subject>.sql`."""
    return parse((Path(__file__).parent / f"{subject}.sql").read_text())

"""The audit log: who did what to which object, from where."""

import csv
import io
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from sql import audit
from sql.audit import Entry, Wanted
from streams.events import Time
from web.auth import Caller
from web.calls import Call, read_query
from web.paging import Cursor, Seq, after, cut
from web.replies import Reply
from web.services import SERVICES
from web.shapes import Answer, Limit, Query

Word = Annotated[str, Meta(min_length=1, max_length=200)]
COLUMNS: Final = (
    "id", "created_at", "actor", "role", "action", "object_kind", "object_id", "source_ip", "request_id", "detail",
    "chain", "seq", "link",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class AuditFilter(Query, frozen=True):
    """Which rows: all that are given must fit; `since` ≤ time < `until`."""

    actor: Word | None = None
    action: Word | None = None
    object_kind: Word | None = None
    object_id: Word | None = None
    since: Time | None = None
    until: Time | None = None


class AuditQuery(AuditFilter, frozen=True):
    """A page of entries."""

    cursor: Cursor | None = None
    limit: Limit = 50


class AuditEntry(Answer, frozen=True):
    """One deed. `link` is the SHA-256 over the link before it in `chain` and this row, in hex."""

    id: int
    created_at: datetime
    actor: str
    role: str | None
    action: str
    object_kind: str
    object_id: str
    source_ip: str | None
    request_id: str | None
    detail: dict[str, Any]
    chain: str
    seq: int
    link: str


class AuditPage(Answer, frozen=True):
    """The newest first."""

    items: list[AuditEntry]
    next: str | None


async def list_entries(call: Call, query: AuditQuery) -> Reply:
    """GET /v1/audit."""
    before = after(query, "audit", Seq)
    found = await audit.get_entries(call.services.db, _wanted(query, before), limit=query.limit + 1)
    page, following = cut(found, query, "audit", lambda entry: entry.id)
    return Reply(AuditPage(items=[_answer(entry) for entry in page], next=following))


async def get_jsonl(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /v1/audit.jsonl: every row that fits, one a line, the newest first."""
    return await _stream(request, "application/jsonl", "audit.jsonl", "", _json_line)


async def get_csv(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /v1/audit.csv: the same as a table. A cell that a spreadsheet would compute begins with an apostrophe."""
    return await _stream(request, "text/csv", "audit.csv", csv_line(COLUMNS), _csv_row)


def csv_line(cells: tuple[object, ...]) -> str:
    """One line of CSV, as RFC 4180 has it."""
    text = io.StringIO()
    csv.writer(text).writerow([_plain(cell) for cell in cells])
    return text.getvalue()


def _plain(cell: object) -> str:
    shown = "" if cell is None else str(cell)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _json_line(entry: Entry) -> str:
    return msgspec.json.encode(_answer(entry)).decode() + "\n"


def _csv_row(entry: Entry) -> str:
    row = msgspec.to_builtins(_answer(entry))
    row["detail"] = msgspec.json.encode(row["detail"]).decode()
    return csv_line(tuple(row[name] for name in COLUMNS))


async def _stream(
    request: web.Request, media_type: str, name: str, head: str, line: Callable[[Entry], str]
) -> web.StreamResponse:
    """Page by page, so that neither we nor the client needs to hold it all. Errors: Problem 400; Unavailable."""
    query = read_query(request, AuditFilter)
    pages = audit.read_all(request.app[SERVICES].db, _wanted(query, None))
    first: list[Entry] = await anext(pages, [])
    response = web.StreamResponse(
        headers={
            "Content-Type": f"{media_type}; charset=utf-8",
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    await response.write((head + "".join(map(line, first))).encode())
    async for page in pages:
        await response.write("".join(map(line, page)).encode())
    await response.write_eof()
    return response


def _wanted(query: AuditFilter, before: int | None) -> Wanted:
    return Wanted(
        before, query.actor, query.action, query.object_kind, query.object_id, query.since, query.until
    )


def _answer(entry: Entry) -> AuditEntry:
    return msgspec.convert(entry, AuditEntry, from_attributes=True)

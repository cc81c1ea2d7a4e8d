"""Text that means something to a database, a log, a terminal or a browser, in every text field of every route.

It is stored and given back as it came, or refused; nobody executes it. The fields are the router's types' own.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from bench.security.bodies import path_of, put, sample, texts
from bench.security.edge import Answer, Edge, Rows
from bench.security.world import World
from web.auth import OPEN, Reach, Role
from web.calls import Route
from web.policy import COLUMNS
from web.router import POLICY, ROUTES

SLEPT_S: Final = 4.0
"""An answer that takes so long was asked of a database that slept."""
AT_ONCE: Final = 8
_TAG: Final = re.compile(r"inj[0-9]{6}x")

HALF: Final = "half a character"
PAYLOADS: Final = {
    "SQL: or": "' OR '1'='1' --",
    "SQL: drop": "'; DROP TABLE wallets CASCADE; --",
    "SQL: sleep": "'||(SELECT pg_sleep(5))||'",
    "SQL: union": "\\' UNION SELECT secret_hash FROM api_keys --",
    "SQL: dollars": "$$; SELECT pg_sleep(5); $$ $1 %s %(x)s {0} :x",
    "log: a line": 'a\r\n{"event":"forged","level":"info"}',
    "log: other line ends": 'a\u2028{"event":"forged"}\u2029b\u0085{"event":"forged"}',
    "log: terminal": "\x1b[31mred\x1b[2J\x1b]0;title\x07\x9b31m",
    "XSS: script": "<script>alert(1)</script>",
    "XSS: attribute": "\"><img src=x onerror=alert(1)>'",
    "XSS: address": "javascript:alert(1)",
    "template": "{{7*7}}${7*7}#{7*7}<%= 7*7 %>",
    "path": "../../../../etc/passwd",
    "shell": "$(id)`id`|id;id",
    "right to left": "\u202egnirts\u202c\ufeff",
    "NUL": "a\x00b",
    HALF: "\ud800",
    "long": "x" * 9_000,
    "JSON within": '{"$gt":"","__proto__":{"x":1}}',
}


@dataclass(slots=True)
class Figures:
    """How many fields were tried, with how many calls; what went wrong."""

    fields: int = 0
    calls: int = 0
    taken: int = 0
    server_errors: int = 0
    wrong: list[str] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    """What each tag was sent in."""


@dataclass(frozen=True, slots=True)
class Try:
    """One call with a payload in one place."""

    route: Route
    where: str
    payload: str
    text: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


async def inject(
    edge: Edge, world: World, payloads: Mapping[str, str] = PAYLOADS, *, tagged: bool = True
) -> Figures:
    """Every payload in every text field, every query's text, every part of a path. `tagged`: findable in the database."""
    figures = Figures()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(made: Try) -> None:
        async with gate:
            await _send(edge, world, made, figures)

    tries = list(_tries(world, payloads, figures, tagged))
    figures.fields = len({(made.route.name, made.where) for made in tries})
    async with asyncio.TaskGroup() as group:
        for made in tries:
            group.create_task(one(made))
    return figures


def _tries(world: World, payloads: Mapping[str, str], figures: Figures, tagged: bool) -> Iterator[Try]:
    own = world.things["own"]
    for route in ROUTES:
        if route.scope in OPEN and route.path.startswith("/v1/webhooks"):
            continue  # its texts are signed: `forgeries` has them
        path = path_of(route, own.of(POLICY.kind(route), _role(route) or Role.CUSTOMER))
        for name, given in payloads.items():
            for place in texts(route.body) if route.body is not None else ():
                text = _marked(given, figures, tagged)
                body = sample(route, own.ids)
                put(body, place, text, own.ids, route.body)
                yield Try(route, "/".join(map(str, place)), name, text, path, json.dumps(body).encode(), {})
            if name == HALF:
                continue  # an address cannot say it
            plain = None if route.body is None else json.dumps(sample(route, own.ids)).encode()
            for (
                parameter,
                *_,
            ) in texts(route.query) if route.query is not None else ():
                text = _marked(given, figures, tagged)
                asked = f"{path}?{urlencode({str(parameter): text})}"
                yield Try(route, f"?{parameter}", name, text, asked, plain, {})
            for part in re.findall(r"\{[a-z]+(?::[^}]*)?\}", route.path):
                text = _marked(given, figures, tagged)
                asked = path_of_but(route, part, text, own.ids)
                yield Try(route, part, name, text, asked, plain, {})
        said = "inj <b>' OR 1=1 -- %0d%0a \\x1b[31m"
        headers = {
            "X-Request-Id": said,
            "User-Agent": said,
            "Referer": said,
            "traceparent": said,
            "Idempotency-Key": said,
        }
        yield Try(route, "headers", "all", said, path, b"{}" if route.method == "POST" else None, headers)


def path_of_but(route: Route, part: str, text: str, ids: Mapping[str, str]) -> str:
    """The route's path with one part replaced."""
    before, _, after = route.path.partition(part)
    rest = path_of(route, ids.get(POLICY.kind(route) or "", "x"))
    return before + quote(text, safe="") + (after if "{" not in after else rest[rest.rfind("/") :])


def _marked(given: str, figures: Figures, tagged: bool) -> str:
    tag = f"inj{len(figures.sent):06d}x"
    text = figures.sent[tag] = tag + given if tagged else given
    return text


def _role(route: Route) -> Role | None:
    """Who may call it, for everybody's objects if there is such a role."""
    reaches = {role: POLICY.reach(route, role) for role in COLUMNS}
    for wanted in (Reach.ANY, Reach.OWN):
        for role in (Role.SERVICE, *COLUMNS):
            if reaches[role] is wanted:
                return role
    return None


async def _send(edge: Edge, world: World, made: Try, figures: Figures) -> None:
    figures.calls += 1
    role = _role(made.route)
    token = world.tokens.get(role, "") if role is not None and made.route.scope not in OPEN else ""
    if made.route.path == "/v1/live":
        return  # it never ends
    began = asyncio.get_running_loop().time()
    answer = await edge.call(made.route.method, made.path, made.body, token=token, headers=made.headers)
    took_s = asyncio.get_running_loop().time() - began
    where = f"{made.route.name} {made.where} {made.payload}"
    figures.server_errors += answer.status >= 500
    figures.taken += answer.status < 300
    if answer.status >= 500:
        figures.wrong.append(f"{where}: {answer.status} {answer.code}")
    if took_s > SLEPT_S:
        figures.wrong.append(f"{where}: took {took_s:.1f} s")
    if wrong := reflected(answer, made, figures.sent.values()):
        figures.wrong.append(f"{where}: {wrong}")


def reflected(answer: Answer, made: Try, sent: Collection[str] = ()) -> str | None:
    """What is wrong with how the answer speaks of the text. `sent` are all texts that went to the API."""
    kind = answer.headers.get("Content-Type", "")
    if made.text in answer.raw.decode("utf-8", "replace") and "html" in kind:
        return "stands in a page"
    if answer.headers.get("X-Content-Type-Options") != "nosniff":
        return "an answer whose type a browser may guess"
    if answer.status < 300 and isinstance(answer.body, dict):
        same = answer.body.get(made.where)
        if isinstance(same, str) and same not in {made.text, *sent}:  # or what another wrote there meanwhile
            return f"given back as {same!r:.60}"
    return None


_SEARCHES: Final = """
SELECT tablename, format($$SELECT to_jsonb(t)::text AS row FROM %I t WHERE to_jsonb(t)::text LIKE '%%inj0%%'$$, tablename)
         AS statement
  FROM pg_tables WHERE schemaname = 'public'
"""


async def check_stored(rows: Rows, figures: Figures) -> None:
    """Wherever a tag is stored, all of its text is."""
    for table in await rows(_SEARCHES):
        for row in await rows(table["statement"]):
            for text in _strings(json.loads(row["row"])):
                for tag in _TAG.findall(text):
                    if figures.sent.get(tag, tag) not in text:
                        figures.wrong.append(f"{table['tablename']} has {text!r:.80}, not what was sent")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        with suppress(ValueError):
            if value[:1] in "{[":
                yield from _strings(json.loads(value))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def check_logs(logs: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Each line is one JSON object of ours; no character moves a terminal's cursor."""
    wrong = []
    for name in names:
        for line in logs[name].split("\n"):
            if not line:
                continue
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict) or said.get("event") == "forged":
                wrong.append(f"{name}'s log has a line {line!r:.200}")
            elif _CONTROL.search(line):
                wrong.append(f"{name}'s log has a control character: {line!r:.200}")
    return wrong


_INTERPRETS: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"
)


async def check_page(edge: Edge, token: str) -> list[str]:
    """The live page says all texts as texts: no script of it interprets any, and the browser would refuse to run one."""
    answer = await edge.get("/", token=token, headers={"X-Forwarded-For": "203.0.113.9"})
    policy = answer.headers.get("Content-Security-Policy", "")
    scripts = re.findall(r'src="(/static/[^"]+\.js)"', str(answer.body))
    wrong = [] if answer.status == 200 and scripts else [f"the page answers {answer.status}"]
    said = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    if said.get("default-src") != "'none'" or said.get("script-src") != "'self'":
        wrong.append(f"the page's policy is {policy!r}")
    for script in scripts:
        if "uplot" in script.lower():
            continue  # drawn on a canvas; it is given numbers alone
        if found := _INTERPRETS.search(str((await edge.get(script)).body)):
            wrong.append(f"{script} uses {found[0]}")
    return wrong

"""The reference page, rendered on the server from the document: it works offline, without scripts, and loads nothing foreign."""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from web.openapi.markdown import anchor, block, inline

_HOST: Final = "https://api.example.com"
_REACH: Final = {"own": "their own", "any": "all"}
_KEYS: Final = {
    "own": "Idempotency-Key required, kept for ever",
    "kept": "Idempotency-Key optional, kept for 30 days",
    "money": "Idempotency-Key optional, kept for ever",
}
_DEEP: Final = 4

Schema = dict[str, Any]


def page(document: dict[str, Any]) -> str:
    """The whole page as HTML."""
    return _Page(document).html()


class _Page:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._schemas: dict[str, Schema] = document["components"]["schemas"]
        self._by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
            tag["name"]: [] for tag in document["tags"]
        }
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                self._by_tag[operation["tags"][0]].append((method.upper(), path, operation))

    def html(self) -> str:
        info = self._document["info"]
        guide = block(info["description"])
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(info['title'])} · API reference</title>"
            '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/docs.css">'
            '<script src="/static/docs.js" defer></script></head><body>'
            f"{self._bar(info)}<div class=frame>{self._navigation()}<main>"
            f'<section class="guide" id="introduction"><h1>API reference</h1>{guide}</section>'
            f"{''.join(self._section(tag) for tag in self._document['tags'] if self._by_tag[tag['name']])}"
            f"{self._codes()}</main></div></body></html>"
        )

    def _bar(self, info: dict[str, Any]) -> str:
        return (
            '<header class="bar"><a class="brand" href="#introduction"><img src="/static/icon.svg" alt="" width="22" height="22">'
            "<strong>CommDesk</strong><span>API reference</span></a><div class=tools>"
            f"<code class=version>v{escape(info['version'])}</code>"
            '<a href="/v1/openapi.json">OpenAPI 3.1</a>'
            '<button id="theme" type="button" aria-label="Light or dark"><svg width="16" height="16" viewBox="0 0 16 16" '
            'aria-hidden="true"><circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.5"/>'
            '<path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor"/></svg></button>'
            '<button id="menu" type="button" aria-label="Contents">☰</button></div></header>'
        )

    def _navigation(self) -> str:
        headings = re.findall(r"^## (.+)$", self._document["info"]["description"], re.MULTILINE)
        parts = [
            '<nav id="contents" aria-label="Contents"><label class="search"><input id="search" type="search" '
            'placeholder="Search" autocomplete="off" spellcheck="false" aria-label="Search operations"><kbd>/</kbd></label>',
            "<h4>Guide</h4><ul>",
            *(f'<li><a href="#{anchor(text)}">{escape(text)}</a></li>' for text in headings),
            '<li><a href="#error-codes">Error codes</a></li></ul>',
        ]
        for tag, operations in self._by_tag.items():
            if operations:
                parts.append(f'<h4><a href="#{anchor(tag)}">{escape(tag)}</a></h4><ul>')
                parts += [
                    f'<li><a href="#{one["operationId"]}" title="{escape(method)} {escape(path)}">'
                    f'<span>{escape(one["summary"])}</span><b class="m {method.lower()}">{method}</b></a></li>'
                    for method, path, one in operations
                ]
                parts.append("</ul>")
        return "".join(parts) + '<p class="none" hidden>Nothing found.</p></nav>'

    def _section(self, tag: dict[str, str]) -> str:
        operations = self._by_tag[tag["name"]]
        lines = "".join(
            f'<a href="#{one["operationId"]}"><b class="m {method.lower()}">{method}</b><code>{_path(path)}</code></a>'
            for method, path, one in operations
        )
        return (
            f'<section class="resource" id="{anchor(tag["name"])}"><div class="two"><div><h2>{escape(tag["name"])}</h2>'
            f'<p class="lead">{inline(tag["description"])}</p></div><aside><div class="card"><h5>Endpoints</h5>'
            f'<div class="lines">{lines}</div></div></aside></div></section>'
            + "".join(self._operation(*one) for one in operations)
        )

    def _operation(self, method: str, path: str, one: dict[str, Any]) -> str:
        parts = [
            f'<article id="{one["operationId"]}"><div class="two"><div>',
            f'<h3><a class="hash" href="#{one["operationId"]}">{escape(one["summary"])}</a></h3>',
            f'<p class="route"><b class="m {method.lower()}">{method}</b><code>{_path(path)}</code></p>',
            f"<p>{inline(one['description'])}</p>" if one["description"] else "",
            _who(one),
            self._parameters("Path", "path", one),
            self._parameters("Query", "query", one),
            self._request(one),
            self._returns(one),
            self._errors(one),
            "</div><aside>",
            self._samples(method, path, one),
            "</aside></div></article>",
        ]
        return "".join(parts)

    def _parameters(self, title: str, where: str, one: dict[str, Any]) -> str:
        found = [parameter for parameter in one.get("parameters", ()) if parameter["in"] == where]
        rows = [self._field(p["name"], p["schema"], required=p["required"], depth=0) for p in found]
        return _fields(f"{title} parameters", rows)

    def _request(self, one: dict[str, Any]) -> str:
        body = one.get("requestBody")
        if body is None:
            return ""
        schema = self._resolved(next(iter(body["content"].values()))["schema"])
        rows = self._rows(schema, 0)
        if not rows:
            return ""
        said = f'<p class="said">{inline(schema["description"])}</p>' if schema.get("description") else ""
        return _fields("Body", rows, said)

    def _returns(self, one: dict[str, Any]) -> str:
        seen, parts = list[str](), list[str]()
        for status, response in one["responses"].items():
            response = self._resolved(response)
            kind, media = next(iter(response["content"].items()))
            if not status.startswith("2"):
                continue
            name = media["schema"].get("$ref", kind).rpartition("/")[2]
            head = f'<b class="s">{status}</b> {inline(response["description"])}'
            if kind != "application/json":
                parts.append(f'<p class="status">{head} <code>{kind}</code></p>')
                continue
            parts.append(f'<p class="status">{head}</p>')
            if name not in seen:
                seen.append(name)
                schema = self._resolved(media["schema"])
                if schema.get("description"):
                    parts.append(f'<p class="said">{inline(schema["description"])}</p>')
                rows = self._rows(schema, 0, sent=False)
                if rows:
                    parts.append(
                        f"<details><summary>Fields <span>{len(rows)}</span></summary><dl>{''.join(rows)}</dl></details>"
                    )
        return f"<h4>Returns</h4>{''.join(parts)}"

    def _errors(self, one: dict[str, Any]) -> str:
        rows = []
        for status, response in one["responses"].items():
            said = self._resolved(response)
            if "application/problem+json" in said["content"]:
                rows += [
                    f'<tr><td><b class="s bad">{status}</b></td><td>{inline(line.partition(": ")[0])}</td>'
                    f"<td>{inline(line.partition(': ')[2])}</td></tr>"
                    for line in said["description"].splitlines()
                ]
        return (
            f"<details class=errors><summary>Errors <span>{len(rows)}</span></summary><div class=scroll>"
            f"<table>{''.join(rows)}</table></div></details>"
        )

    def _rows(self, schema: Schema, depth: int, *, sent: bool = True) -> list[str]:
        needed = schema.get("required", ())
        return [
            self._field(name, kind, required=sent and name in needed, depth=depth, sent=sent)
            for name, kind in schema.get("properties", {}).items()
        ]

    def _field(self, name: str, kind: Schema, *, required: bool, depth: int, sent: bool = True) -> str:
        kind = self._resolved(kind)
        inner = self._inner(kind)
        nested = ""
        if inner is not None and depth < _DEEP and (rows := self._rows(inner, depth + 1, sent=sent)):
            said = f'<p class="said">{inline(inner["description"])}</p>' if inner.get("description") else ""
            nested = f"<details><summary>Fields</summary>{said}<dl>{''.join(rows)}</dl></details>"
        must = '<i class="must">required</i>' if required else ""
        limits = "".join(f"<span>{text}</span>" for text in self._limits(kind))
        about = kind.get("description", "") if inner is None else ""
        text = f"<p>{inline(about)}</p>" if about else ""
        return (
            f"<div><dt><code>{escape(name)}</code><span class=type>{escape(self._type(kind))}</span>{must}</dt>"
            f"<dd>{text}{f'<p class=limits>{limits}</p>' if limits else ''}{nested}</dd></div>"
        )

    def _resolved(self, kind: Schema) -> Schema:
        if "$ref" not in kind:
            return kind
        _, _, group, name = kind["$ref"].split("/")
        found: Schema = self._document["components"][group][name]
        return found

    def _inner(self, kind: Schema) -> Schema | None:
        """The object of a field, of its list, or of one of its kinds."""
        for option in (kind, *kind.get("anyOf", ())):
            option = self._resolved(option)
            if option.get("properties"):
                return option
            if (items := option.get("items")) and self._resolved(items).get("properties"):
                return self._resolved(items)
        return None

    def _type(self, kind: Schema) -> str:
        kind = self._resolved(kind)
        if "anyOf" in kind:
            return " or ".join(dict.fromkeys(self._type(option) for option in kind["anyOf"]))
        if "enum" in kind:
            return "string" if all(isinstance(value, str | None) for value in kind["enum"]) else "value"
        if kind.get("type") == "array":
            return f"list of {self._type(kind.get('items', {}))}s"
        forms = {"uuid": "uuid", "date-time": "time"}
        return forms.get(kind.get("format", ""), str(kind.get("type", "any")))

    def _limits(self, kind: Schema) -> Iterable[str]:
        for option in (kind, *kind.get("anyOf", ())):
            option = self._resolved(option)
            if "enum" in option:
                yield " ".join(
                    f"<code>{escape(str(value))}</code>" for value in option["enum"] if value is not None
                )
            lowest, highest = option.get("minimum"), option.get("maximum")
            if lowest is not None and highest is not None:
                yield f"{lowest:,} to {highest:,}"
            elif lowest is not None:
                yield f"{lowest:,} or more"
            if "maxLength" in option:
                yield f"at most {option['maxLength']:,} characters"
            if "maxItems" in option:
                yield f"at most {option['maxItems']:,} items"
            if "pattern" in option:
                yield f"<code>{escape(option['pattern'])}</code>"
        default = kind.get("default")
        if default is not None:
            yield f"default <code>{escape(json.dumps(default))}</code>"

    def _samples(self, method: str, path: str, one: dict[str, Any]) -> str:
        asked = one.get("x-example", {}).get("path", path)
        lines = [f"curl {_HOST}{asked}" if "?" not in asked else f"curl '{_HOST}{asked}'"]
        if method == "POST":
            lines[0] = lines[0].replace("curl ", "curl -X POST ", 1)
        if one["security"]:
            lines.append('-H "Authorization: Bearer $TOKEN"')
        keyed = [p for p in one.get("parameters", ()) if p["name"] == "Idempotency-Key"]
        if keyed:
            lines.append('-H "Idempotency-Key: $(uuidgen)"')
        contents: list[dict[str, Any]] = list(one.get("requestBody", {}).get("content", {}).values())
        body = contents[0].get("example") if contents else None
        if body is not None:
            lines.append('-H "Content-Type: application/json"')
            lines.append(f"-d '{json.dumps(body, indent=2, ensure_ascii=False)}'")
        curl = " \\\n  ".join(lines)
        parts = [
            _card(
                f'<b class="m {method.lower()}">{method}</b><code>{_path(path)}</code>',
                _shell(curl),
                copied=True,
            )
        ]
        for status, response in one["responses"].items():
            media = next(iter(self._resolved(response)["content"].values()))
            if "example" in media:
                parts.append(
                    _card(
                        f'<h5>Response</h5><b class="s">{status}</b>', _shown(media["example"]), copied=True
                    )
                )
        return "".join(parts)

    def _codes(self) -> str:
        rows = "".join(
            f'<tr><td><b class="s bad">{said["status"]}</b></td><td><code>{escape(code)}</code></td>'
            f"<td>{inline(said['meaning'])}</td></tr>"
            for code, said in sorted(
                self._document["x-problem-codes"].items(), key=lambda item: (item[1]["status"], item[0])
            )
        )
        return (
            '<section class="guide wide" id="error-codes"><h2>Error codes</h2>'
            '<p class="lead">Every <code>code</code> there is.</p>'
            f"<div class=scroll><table>{rows}</table></div></section>"
        )


def _fields(title: str, rows: Sequence[str], said: str = "") -> str:
    return f"<h4>{title}</h4>{said}<dl>{''.join(rows)}</dl>" if rows else ""


def _who(one: dict[str, Any]) -> str:
    if not one["security"]:
        return '<p class="who"><span class="pill">open to everybody</span></p>'
    roles = "".join(
        f'<span class="pill"><b>{escape(role)}</b> {_REACH[reach]}</span>'
        for role, reach in one["x-roles"].items()
    )
    key = _KEYS.get(one.get("x-idempotency", ""))
    return (
        f'<p class="who"><span class="pill scope" title="scope">{escape(one["x-scope"])}</span>{roles}'
        f"{f'<span class=pill>{key}</span>' if key else ''}</p>"
    )


def _path(path: str) -> str:
    return re.sub(r"\{(\w+)\}", r"<em>{\1}</em>", escape(path).replace("/", "/<wbr>"))


def _card(head: str, body: str, *, copied: bool) -> str:
    button = '<button class="copy" type="button">Copy</button>' if copied else ""
    return f'<div class="card"><header>{head}{button}</header><pre><code>{body}</code></pre></div>'


def _shell(text: str) -> str:
    shown = escape(text, quote=False)
    shown = re.sub(r'("[^"\n]*?")', r"<i>\1</i>", shown)
    return re.sub(r"^(curl|\s+)(\s?-[A-Za-z])", r"\1<u>\2</u>", shown, flags=re.MULTILINE)


_TOKEN: Final = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|(\b(?:true|false|null)\b|-?\d+(?:\.\d+)?)')


def _shown(example: object) -> str:
    return escape(example, quote=False) if isinstance(example, str) else _json(example)


def _json(value: object) -> str:
    def colour(found: re.Match[str]) -> str:
        text, colon, word = found.groups()
        if word:
            return f"<s>{word}</s>"
        return (
            f"<b>{escape(text, quote=False)}</b>{colon}" if colon else f"<i>{escape(text, quote=False)}</i>"
        )

    return _TOKEN.sub(colour, json.dumps(value, indent=2, ensure_ascii=False))

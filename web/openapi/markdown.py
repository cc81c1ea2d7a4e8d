"""The little of Markdown that our own texts use: headings, paragraphs, lists, code, bold."""

import re
from html import escape


def anchor(text: str) -> str:
    """The id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def inline(text: str) -> str:
    """A line of text as HTML."""
    parts = re.split(r"(`[^`]*`)", text)
    shown = [
        f"<code>{escape(part[1:-1])}</code>"
        if part[:1] == "`" and part[-1:] == "`" and len(part) > 1
        else escape(part)
        for part in parts
    ]
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", "".join(shown))


def block(text: str) -> str:
    """A text as HTML."""
    return "".join(_part(part) for part in re.split(r"\n\n(?![ }\]])", text.strip()))


def _part(text: str) -> str:
    if text.startswith("## "):
        title = text[3:].strip()
        return f'<h2 id="{anchor(title)}">{inline(title)}</h2>'
    if text.startswith("```"):
        lines = text.splitlines()
        return f"<pre><code>{escape(chr(10).join(lines[1:-1]), quote=False)}</code></pre>"
    items = re.split(r"^- ", text, flags=re.MULTILINE)
    first = f"<p>{inline(items[0].replace(chr(10), ' ').strip())}</p>" if items[0].strip() else ""
    if len(items) == 1:
        return first
    listed = "".join(f"<li>{inline(' '.join(item.split()))}</li>" for item in items[1:])
    return f"{first}<ul>{listed}</ul>"

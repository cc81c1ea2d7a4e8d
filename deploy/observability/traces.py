"""One payment's trace from the collector's file, as a table and as a picture (`./dev trace`).

A payment's trace is the tree under the webhook's request. Batches are traces of their own, since one batch
serves many payments; the payment's spans link to them, so each batch and its SQL is shown below the step it
belongs to.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.observability.collector import Span

LAST = "dashboard"
_WIDTH, _LEFT, _ROW, _TOP = 1180, 330, 22, 64
_COLOURS = ("#2563eb", "#0d9488", "#9333ea", "#ca8a04", "#dc2626", "#475569", "#65a30d", "#db2777")


@dataclass(frozen=True, slots=True)
class Step:
    """One line: a span, how deep it lies, and whether it belongs to a batch rather than to the payment."""

    span: Span
    depth: int
    in_batch: bool


def read(file: Path) -> list[Span]:
    """Every span in the collector's file."""
    decoder = msgspec.json.Decoder(Span)
    return [decoder.decode(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def find(spans: Iterable[Span], subject: str | None) -> str | None:
    """The trace about `subject` (a payment, order or inbox id); without one the newest that reached a dashboard."""
    about = [s for s in spans if subject is None or subject in str(s.attributes.get("ids", "")).split()]
    if subject is None:
        credited = {s.trace for s in about if s.name == "wallet.credit"}
        about = [s for s in about if s.name == LAST and s.trace in credited] or [
            s for s in about if s.name == "wallet.credit"
        ]
    return max(about, key=lambda s: s.start_ns).trace if about else None


def steps(spans: Iterable[Span], trace: str) -> list[Step]:
    """The trace in order of time below each parent, with the batches that its spans link to."""
    spans = list(spans)
    by_id = {(s.trace, s.span): s for s in spans}
    below: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in spans:
        below[span.trace, span.parent].append(span)

    def walk(span: Span, depth: int, in_batch: bool) -> Iterator[Step]:
        yield Step(span, depth, in_batch)
        linked = [by_id[link] for link in span.links if link in by_id] if not in_batch else []
        inner = [(child, in_batch) for child in below[span.trace, span.span]]
        inner += [(batch, True) for batch in linked]
        for child, batch in sorted(inner, key=lambda pair: pair[0].start_ns):
            yield from walk(child, depth + 1, batch)

    own = [s for s in spans if s.trace == trace]
    known = {s.span for s in own}
    roots = sorted((s for s in own if s.parent not in known), key=lambda s: s.start_ns)
    return [step for root in roots for step in walk(root, 0, in_batch=False)]


def table(found: list[Step]) -> str:
    """Span, process, start and duration in ms since the first span."""
    zero = min(step.span.start_ns for step in found)
    wide = max(len(step.span.name) + 2 * step.depth for step in found) + 2
    process = max(len(step.span.service) for step in found) + 2
    lines = [f"{'span':<{wide}}{'process':<{process}}{'start ms':>10}{'ms':>10}"]
    for step in found:
        s = step.span
        name = "  " * step.depth + s.name + (" !" if s.failed else "")
        start, took = (s.start_ns - zero) / 1e6, (s.end_ns - s.start_ns) / 1e6
        lines.append(f"{name:<{wide}}{s.service:<{process}}{start:>10.1f}{took:>10.1f}")
    return "\n".join(lines)


def picture(found: list[Step]) -> str:
    """The waterfall as an SVG that stands alone: payment's spans full, their batches and SQL lighter."""
    zero = min(step.span.start_ns for step in found)
    total = max(step.span.end_ns for step in found) - zero
    scale = (_WIDTH - _LEFT - 90) / max(1, total)
    services = sorted({step.span.service for step in found})
    colour = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(services)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_TOP + _ROW * len(found) + 16}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="600">trace {found[0].span.trace}</text>',
    ]
    x = 12.0
    for name in services:
        parts.append(f'<rect x="{x:.0f}" y="34" width="10" height="10" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="43" fill="#334155">{html.escape(name)}</text>')
        x += 40 + 7 * len(name)
    for tick in range(5):
        at = _LEFT + tick / 4 * total * scale
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="100%" stroke="#e2e8f0"/>')
        parts.append(
            f'<text x="{at + 3:.1f}" y="{_TOP - 8}" fill="#64748b">{tick / 4 * total / 1e6:.0f} ms</text>'
        )
    for row, step in enumerate(found):
        s, y = step.span, _TOP + row * _ROW
        start, width = _LEFT + (s.start_ns - zero) * scale, max(1.5, (s.end_ns - s.start_ns) * scale)
        fade, ink = (0.4, "#64748b") if step.in_batch else (1.0, "#0f172a")
        parts.append(
            f'<text x="{12 + 14 * step.depth}" y="{y + 15}" fill="{ink}">{html.escape(s.name)}</text>'
        )
        parts.append(
            f'<rect x="{start:.1f}" y="{y + 4}" width="{width:.1f}" height="14" rx="2" '
            f'fill="{colour[s.service]}" opacity="{fade}"/>'
        )
        took = (s.end_ns - s.start_ns) / 1e6
        parts.append(f'<text x="{start + width + 5:.1f}" y="{y + 15}" fill="#64748b">{took:.1f} ms</text>')
    return "\n".join([*parts, "</svg>", ""])

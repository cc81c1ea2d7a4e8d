"""The rendering of issued documents: a PDF each, from one template, whenever there is time.

In     invoices without a picture, leased (SKIP LOCKED), oldest first; no stream, so nothing waits for it
Books  record_renderings: where the PDF lies; what failed is due again after a growing pause, for ever
Out    the storage (gateway/storage.py); `GET /v1/invoices/{id}.pdf` reads it
"""

import asyncio
import io
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import segno
import structlog
import typst

from agents.core import Core
from agents.pool import rounds
from domain.invoices import payment_link, present, storage_key
from gateway.storage import Storage, StorageError
from sql import invoices
from sql.invoices import Rendered, Rendering

log = structlog.get_logger("agents.invoice_render")

TEMPLATE: Final = Path(__file__).parent / "templates" / "invoice.typ"
POLL_S: Final = 0.5
LIMIT: Final = 20
LEASE_S: Final = 60.0
NICENESS: Final = 10


class Renderer:
    """One compiler, used again and again: it keeps its fonts, and renders one document at a time.

    `background` is its thread, which gets only the time that the money does not need.
    """

    def __init__(self) -> None:
        self._compiler = typst.Compiler(TEMPLATE, root=TEMPLATE.parent)
        self._turn = threading.Lock()
        self.background = ThreadPoolExecutor(1, "invoice-render", initializer=_step_back)

    def render(self, document: Mapping[str, Any], *, voided: bool = False) -> bytes:
        """A frozen document as PDF, the same bytes each time. Errors: typst.TypstError; KeyError for another shape."""
        shown = present(document, voided=voided)
        link = payment_link(document)
        inputs = {"document": json.dumps(shown), "qr": "" if link is None else qr_code(link)}
        issued_at = datetime.fromisoformat(document["issued_at"]).astimezone(UTC)
        with self._turn:
            pdf = self._compiler.compile(sys_inputs=inputs, format="pdf", timestamp=issued_at)
        assert isinstance(pdf, bytes)
        return pdf


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def qr_code(text: str) -> str:
    """A QR code as SVG."""
    out = io.BytesIO()
    segno.make(text, error="m", micro=False).save(out, kind="svg", border=0, xmldecl=False, svgns=True)
    return out.getvalue().decode()


async def run(core: Core, storage: Storage) -> None:
    """Until cancelled. Every worker may run one."""
    renderer = await asyncio.to_thread(Renderer)
    await rounds("rendering", lambda: once(core, storage, renderer), limit=LIMIT, pause_s=POLL_S)


async def once(core: Core, storage: Storage, renderer: Renderer, *, lease_s: float = LEASE_S) -> int:
    """Render what is due now; returns how many documents were leased. Errors: Unavailable."""
    leases = await invoices.lease_renderings(core.db, limit=LIMIT, lease_s=lease_s)
    if leases:
        await invoices.record_renderings(
            core.db, [await _render(storage, renderer, lease) for lease in leases]
        )
    return len(leases)


async def _render(storage: Storage, renderer: Renderer, lease: Rendering) -> Rendered:
    try:
        key = storage_key(lease.document)
        render = partial(renderer.render, lease.document, voided=lease.voided)
        pdf = await asyncio.get_running_loop().run_in_executor(renderer.background, render)
        await storage.put(key, pdf)
    except (StorageError, typst.TypstError, LookupError, TypeError, ValueError) as error:
        log.error("not rendered", number=lease.number, attempt=lease.attempt, error=str(error))
        return Rendered(lease.id, lease.attempt, None, f"{type(error).__name__}: {error}")
    return Rendered(lease.id, lease.attempt, key)

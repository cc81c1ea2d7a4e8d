"""Where the description and the page are served: made once per process, from the table that serves everything else."""

from functools import cache
from typing import Final

import msgspec
from aiohttp import web

from web.auth import Caller

_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@cache
def _made() -> tuple[bytes, bytes]:
    from web.openapi.document import document
    from web.openapi.page import page
    from web.router import POLICY, ROUTES

    said = document(ROUTES, POLICY)
    return msgspec.json.encode(said), page(said).encode()


async def get_openapi(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /v1/openapi.json: OpenAPI 3.1, of exactly the routes that this process serves."""
    return _sent(request, _made()[0], "application/json")


async def get_docs(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /v1/docs: the same, to read."""
    response = _sent(request, _made()[1], "text/html")
    response.headers["Content-Security-Policy"] = _PAGE_POLICY
    return response


def _sent(request: web.Request, body: bytes, kind: str) -> web.Response:
    response = web.Response(
        body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"}
    )
    response.enable_compression()
    return response

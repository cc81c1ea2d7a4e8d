"""Where documents are kept for their owners: a local folder, or a storage zone of Bunny.net.

    StorageError
    └── BadKey        a name that could leave its folder: a bug of ours

`put` replaces what lies under the key, so it may be repeated; a document is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_KEY: Final = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\.pdf", re.ASCII)
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=5)


class StorageSettings(BaseSettings):
    """`invoice_storage_url`: `file:FOLDER`, or `https://storage.bunnycdn.com/ZONE` (the host of the zone's region).

    `invoice_storage_key` is the zone's password. A folder must be the same for the workers and the web process.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    invoice_storage_url: str = "file:.local/invoices"
    invoice_storage_key: SecretStr = Field(default=SecretStr(""))

    @field_validator("invoice_storage_url")
    @classmethod
    def _only_tls(cls, value: str) -> str:
        parts = urlsplit(value)
        near = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not ((parts.scheme == "file" and parts.path) or parts.scheme == "https" or near):
            raise ValueError("documents are kept in file:FOLDER or behind https://")
        return value.rstrip("/")


class StorageError(Exception):
    """The storage did not do it; trying again later is right."""


class BadKey(StorageError):
    """A key that is no plain path of names ending in .pdf."""


class Storage(Protocol):
    """Documents by key."""

    async def put(self, key: str, document: bytes) -> None:
        """Keep a document. Errors: StorageError."""

    async def get(self, key: str) -> bytes | None:
        """A document, None if there is none. Errors: StorageError."""


def _checked(key: str) -> str:
    if len(key) > 200 or not _KEY.fullmatch(key):
        raise BadKey(f"not a document's key: {key[:50]!r}")
    return key


class Folder:
    """Documents as files, readable by this user alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, document: bytes) -> None:
        await asyncio.to_thread(self._write, self._folder / _checked(key), document)

    async def get(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._read, self._folder / _checked(key))

    def _write(self, path: Path, document: bytes) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write {path.name}: {error.strerror}") from error

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path.name}: {error.strerror}") from error


class Bunny:
    """Documents in a storage zone, over HTTP. Source: Bunny.net, Edge Storage API: PUT and GET, header AccessKey."""

    def __init__(self, session: aiohttp.ClientSession, url: str, access_key: SecretStr) -> None:
        self._session = session
        self._url = url
        self._headers = {"AccessKey": access_key.get_secret_value()}

    async def put(self, key: str, document: bytes) -> None:
        checksum = hashlib.sha256(document).hexdigest().upper()
        headers = {**self._headers, "Checksum": checksum, "Content-Type": "application/pdf"}
        await self._call("PUT", key, frozenset({200, 201}), headers, document)

    async def get(self, key: str) -> bytes | None:
        status, body = await self._call("GET", key, frozenset({200, 404}), self._headers)
        return body if status == 200 else None

    async def _call(
        self,
        verb: str,
        key: str,
        fine: frozenset[int],
        headers: dict[str, str],
        document: bytes | None = None,
    ) -> tuple[int, bytes]:
        url = f"{self._url}/{_checked(key)}"
        try:
            async with self._session.request(
                verb, url, data=document, headers=headers, allow_redirects=False, timeout=_TIMEOUT
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StorageError(f"{verb} {key}: {str(error) or type(error).__name__}") from error
        if answer.status not in fine:
            raise StorageError(f"{verb} {key}: the storage answered {answer.status}")
        return answer.status, body


@asynccontextmanager
async def open_storage(settings: StorageSettings | None = None) -> AsyncIterator[Storage]:
    """The storage that the settings name, for the block."""
    settings = settings or StorageSettings()
    parts = urlsplit(settings.invoice_storage_url)
    if parts.scheme == "file":
        yield Folder(Path(parts.path))
        return
    async with aiohttp.ClientSession() as session:
        yield Bunny(session, settings.invoice_storage_url, settings.invoice_storage_key)

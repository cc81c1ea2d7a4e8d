"""A mail server on loopback that speaks enough SMTP to be a real one, and fails as it is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Self

Hook = Callable[[], object]


@dataclass
class MailServer:
    """`mails` is what was accepted, in order. `answers` overrides replies by verb, one use each: a line, or None to hang up.

    The verb "." is the answer to a message's content: None there hangs up after it was accepted and kept. So long as
    `before_last_word` is not set, that answer is held back.
    """

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    answers: dict[str, list[str | None]] = field(default_factory=dict)
    connections: int = 0
    accepted: Hook = lambda: None
    before_last_word: asyncio.Event | None = None
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    def ids(self) -> list[str]:
        """The Message-IDs accepted, in order."""
        return [str(mail["Message-ID"]) for mail in self.mails]

    def _answer(self, verb: str, otherwise: str) -> str | None:
        waiting = self.answers.get(verb)
        return waiting.pop(0) if waiting else otherwise

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 loopback\r\n")
        recipient, in_mail = "", False
        while line := (await reader.readline()).decode().strip():
            verb = line.split(" ")[0].split(":")[0].upper()
            if verb == "MAIL" and in_mail:
                said: str | None = "503 nested MAIL"
            else:
                said = self._answer(verb, "354 go on" if verb == "DATA" else "250 fine")
            if said is None:
                return
            writer.write(f"{said}\r\n".encode())
            if verb == "QUIT":
                return
            in_mail = (in_mail or verb == "MAIL") and verb not in ("RSET", "EHLO")
            if verb == "RCPT":
                recipient = line.partition("<")[2].partition(">")[0]
            if verb == "DATA" and said.startswith("354"):
                content = await reader.readuntil(b"\r\n.\r\n")
                in_mail = False
                said = self._answer(".", "250 kept")
                if said is None or said.startswith("250"):
                    self.mails.append(message_from_bytes(content[:-3], policy=policy.default))
                    self.recipients.append(recipient)
                    self.accepted()
                if self.before_last_word is not None:
                    await self.before_last_word.wait()
                if said is None:
                    return
                writer.write(f"{said}\r\n".encode())

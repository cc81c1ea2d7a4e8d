"""Faust's conductor, without the lock it takes for every message."""

from __future__ import annotations

from typing import Any

from faust.transport import base
from faust.types import Message


class Conductor(base.Conductor):
    """The map of callbacks is only touched from the event loop, between messages."""

    def _compile_message_handler(self) -> Any:
        if self.app.client_only:
            return super()._compile_message_handler()
        callbacks = self._tp_to_callback

        async def on_message(message: Message) -> None:
            callback = callbacks.get(message.tp)
            if callback is not None:
                await callback(message)

        return on_message

"""The worked example of docs/client.md runs as it is written, against the real API."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from client import errors
from deploy.migrations import CHECKOUT
from tests.web.conftest import Api

from .conftest import Service

PAGE = (CHECKOUT / "docs" / "client.md").read_text()


async def test_the_worked_example_runs(
    service: Service, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    said: dict[str, Any] = {}
    exec(compile(example, "docs/client.md", "exec"), said)
    main: Callable[[str, str], Awaitable[None]] = said["main"]
    await main(service.wire.url, service.key)
    printed = capsys.readouterr().out
    assert "{'accepted'}" in printed
    assert "1 grant 500" in printed
    assert await api.count("usage_metering") == 100


def test_every_error_is_on_the_page() -> None:
    classes = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert all(f"`{name}`" in PAGE for name in classes), classes

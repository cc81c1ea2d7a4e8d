"""Random passwords of the local servers, kept in one file only the owner may read."""

import json
import os
import secrets
from pathlib import Path


class Secrets:
    """Named random passwords; made on first use, the same after a restart."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._values: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    def get(self, name: str) -> str:
        """The password called `name`: 32 hexadecimal characters, safe in any URL."""
        if name not in self._values:
            self._values[name] = secrets.token_hex(16)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._file, json.dumps(self._values, indent=1))
        return self._values[name]


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read, replacing it in one step."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    draft.replace(file)

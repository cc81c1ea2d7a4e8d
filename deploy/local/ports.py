"""Free loopback ports, remembered in a file so that a restart answers at the same address."""

import json
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
# Below the kernel's ephemeral range, so that no outgoing connection takes a port between restarts.
_RANGE = range(15_000, 32_000)


def is_free(port: int) -> bool:
    """True when nothing listens on the loopback port and we may bind it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """True when a connection to the loopback port is accepted."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A loopback port nobody uses now."""
    while True:
        port = random.choice(_RANGE)
        if is_free(port):
            return port


class Ports:
    """Named ports kept in a JSON file; a remembered port that someone took is replaced."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def take(self, name: str) -> int:
        """The port remembered under `name`, or a new one, free now."""
        port = self._ports.get(name)
        if port is None or not is_free(port):
            taken = set(self._ports.values())
            port = next(p for p in iter(free_port, None) if p not in taken)
            self._ports[name] = port
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._ports, indent=1))
        return port

    def recall(self, name: str) -> int:
        """The port remembered under `name`, in use or not.

        Errors: KeyError when there is none.
        """
        return self._ports[name]

"""How much memory bodies may take while they come in, all of them together."""

from web.problems import overloaded


class Room:
    """What bodies that are still coming in may take together. One per process."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def take(self, n: int) -> None:
        """Errors: Problem 503 when there is no room."""
        if n > self._left:
            raise overloaded()
        self._left -= n

    def give(self, n: int) -> None:
        """Back."""
        self._left += n

"""A clock that a test turns."""


class Clock:
    """Callable; `now` in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now

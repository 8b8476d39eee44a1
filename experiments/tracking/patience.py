"""An end to waiting for W&B's service, which may hang for ever: on a file system that does not answer, or stopped."""

import contextlib
import threading
from types import TracebackType

import psutil

LONGEST = 600.0
"""Seconds that a cell may take: W&B itself gives up on its server after 90 s at the start and 60 s at the end of one."""


class Patience:
    """In this context the service is killed where a cell takes too long: a call that waits for it then fails.

    Args:
        seconds: that a cell may take; None waits for ever, since the service also has runs of the user's own.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._timer, self._over = seconds, threading.Timer(0, lambda: None), False

    def __enter__(self) -> "Patience":
        self.again()
        return self

    def again(self) -> None:
        """A cell is done: wait as long for the next."""
        self._timer.cancel()
        if self._seconds is None:
            return
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Say why it failed.

        Raises:
            TimeoutError: the service was killed.
        """
        self._timer.cancel()
        if self._over and isinstance(error, Exception | SystemExit):
            raise TimeoutError(f"nothing was done for {self._seconds:g} s, so its service was ended") from error

    def _end(self) -> None:
        self._over = True
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("wandb"):
                    process.kill()

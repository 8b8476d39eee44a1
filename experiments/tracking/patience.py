"""An end to waiting for W&B's service, which may hang for ever: on a file system that does not answer, or stopped."""

import contextlib
import threading
from types import TracebackType

import psutil

LONGEST = 600.0
"""Seconds that a cell may take: W&B itself gives up on its server after 90 s at the start and 60 s at the end of one."""


class Patience:
    """In this context the service is killed when nothing comes to an end for a while: a call that waits for it then fails.

    Args:
        seconds: that anything may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._timer, self._over = seconds, threading.Timer(seconds, lambda: None), False

    def __enter__(self) -> "Patience":
        self.again()
        return self

    def again(self) -> None:
        """Something came to an end: wait as long for the next."""
        self._timer.cancel()
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
            raise TimeoutError(f"its service did not answer for {self._seconds:g} s and was ended") from error

    def _end(self) -> None:
        self._over = True
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("wandb"):
                    process.kill()

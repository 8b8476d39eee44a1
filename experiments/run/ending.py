"""How a run that is not whole ends: says what is missing, also when a process that it has started dies."""

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ..study.jobs import Job
from ..terminal import complain

NAMED = 50
"""How many missing images are named at most."""
EVERY = 0.2
"""Seconds between two looks at the processes; Lightning 2.6 looks every 5 s, and kills this one without a word."""
SHORTLY = 1.0
"""Seconds after which a process whose connection broke has ended, if that is why."""


def complain_of_missing(done: Collection[str], todo: Sequence[Job], reasons: Sequence[str]) -> bool:
    """Print why jobs failed and which are not done; whether any is not."""
    for reason in reasons:
        complain(reason)
    absent = [job.id for job in todo if job.id not in done]
    if absent:
        names = " ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
        complain(f"error: {len(absent)} of {len(todo)} images are missing: {names}; the same command again generates them")
    return bool(absent)


class Watch:
    """Inside this context a dead process ends this one too, which may wait for it in a collective that never returns.

    Args:
        launcher: Lightning's, which has the processes that this one has started; None if it starts none.
        end: called with what happened; must not return.
    """

    def __init__(self, launcher: Any, end: Callable[[str], None]) -> None:  # noqa: ANN401
        self._launcher, self._end = launcher, end
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        if self._launcher is not None:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def death(self) -> str | None:
        """What killed a process; waits a moment for its end to be known. From now on nothing else is done about it."""
        self._over.set()
        until = time.monotonic() + SHORTLY
        while self._launcher is not None and self._launcher.procs and time.monotonic() < until:
            if (dead := self._dead()) is not None:
                return dead
            time.sleep(0.01)
        return None

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            if (dead := self._dead()) is not None and not self._over.is_set():
                self._end(dead)

    def _dead(self) -> str | None:
        codes = {rank: process.poll() for rank, process in enumerate(self._launcher.procs, 1)}
        ends = {rank: f"by signal {-code}" if code < 0 else f"with exit code {code}" for rank, code in codes.items() if code}
        which = " and ".join(f"process {rank} of {len(codes) + 1} ended {how}" for rank, how in ends.items())
        return f"error: {which}; the same command again resumes" if ends else None


def exit_at_once(launcher: Any, done: Collection[str], todo: Sequence[Job], reason: str) -> None:  # noqa: ANN401
    """Say what is missing, kill the other processes and exit with 1, from whatever thread; rows are whole at any moment."""
    complain_of_missing(done, todo, [reason])
    for process in launcher.procs:
        process.kill()
    os._exit(1)

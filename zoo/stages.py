"""How long the stages of an answer take, for whoever wants to know.

with stages.timed() as seconds:
    model.answer(["who?"])
print(seconds)  # {"tokenize": 0.001, "encode": 0.02, "retrieve": 0.003, ...}
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_running: ContextVar[_Clock | None] = ContextVar("stages", default=None)


class _Clock:
    """Gives the time that passes to the innermost stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.open: list[str] = []
        self.since = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by stage of what happens inside, in this thread; a stage in another counts once."""
    clock = _Clock()
    token = _running.set(clock)
    try:
        yield clock.seconds
    finally:
        _running.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what is being done; also a decorator of functions."""
    clock = _running.get()
    if clock is None:
        yield
        return
    clock.tick()
    clock.open.append(name)
    try:
        yield
    finally:
        clock.tick()
        clock.open.pop()

"""Progress bars of an analysis, one for each stage, and the time that each took."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

from tqdm import tqdm


class Stages:
    """Show a named bar for each stage, if wanted, and keep the seconds that each took in ``seconds``, by name."""

    def __init__(self, show: bool = False):
        self.show, self.seconds = show, dict[str, float]()

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, unit: str = "step") -> Iterator[tqdm]:
        """A bar over so many units of work, None where unknown; its ``update`` moves it by one."""
        start = time.perf_counter()
        try:
            with tqdm(total=total, desc=name, unit=unit, disable=not self.show) as bar:
                yield bar
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def map_in_order(pool: Executor, function: Callable, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Results of a function in the order of the items, no more than ``ahead`` of which wait in the pool at a time."""
    waiting: list = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def leave_interrupts_to_the_first() -> None:
    """Make a worker ignore Ctrl-C, which reaches all processes; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

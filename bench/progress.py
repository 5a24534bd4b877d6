"""Telling a person how a run goes: bars with an estimate of the time left on a terminal, plain
lines elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.plan import BLOCK, Cell, Todo

_SECONDS_BETWEEN_LINES = 10.0
_EARLY = 0.05
"""Share of the samples below which an estimate of the time left would be a guess."""


def samples_in(item: Todo) -> int:
    """How many samples the missing blocks hold."""
    return sum(min(BLOCK, item.cell.data.n - number * BLOCK) for number in item.blocks)


class Bars:
    """A bar per cell on a terminal."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}
        self.whole: TaskID | None = None
        self.total = 0
        self.left: dict[str, int] = {}

    def begin(self, todo: Sequence[Todo]) -> None:
        """See runner.Watcher."""
        if not todo:
            return
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        self.left = {item.cell.key: samples_in(item) for item in todo}
        self.total = sum(self.left.values())
        self.whole = self.progress.add_task("[bold]all", total=self.total)
        for item in todo:
            task = self.progress.add_task(item.cell.title, total=samples_in(item), start=False)
            self.tasks[item.cell.key] = task
        self.progress.start()

    def say(self, text: str) -> None:
        """See runner.Watcher."""
        self.progress.console.print(text, style="dim", highlight=False)

    def moved(self, cell: Cell, samples: int) -> None:
        """See runner.Watcher."""
        task = self.tasks[cell.key]
        self.left[cell.key] -= samples
        self.progress.start_task(task)
        self.progress.advance(task, samples)
        if self.whole is not None:
            self.progress.advance(self.whole, samples)

    def failed(self, cell: Cell, reason: str) -> None:
        """See runner.Watcher."""
        self.progress.console.print(f"failed: {cell.title}: {reason}", style="red", highlight=False)

    def warn(self, text: str) -> None:
        """See runner.Watcher."""
        self.progress.console.print(f"warning: {text}", style="yellow", highlight=False)

    def restarted(self, cell: Cell, item: Todo) -> None:
        """See runner.Watcher."""
        task, samples = self.tasks.pop(cell.key), samples_in(item)
        self.tasks[item.cell.key] = task
        self.progress.reset(task, total=samples, start=False)
        self.total += samples - self.left.pop(cell.key)
        self.left[item.cell.key] = samples
        if self.whole is not None:
            self.progress.update(self.whole, total=self.total)

    def end(self) -> None:
        """See runner.Watcher."""
        self.progress.stop()


class Lines:
    """Plain lines, at most one per cell every ten seconds."""

    def __init__(self, write: Callable[[str], None]):
        self.write = write
        self.total = 0
        self.settled = 0
        self.start = self.last = time.monotonic()
        self.left: dict[str, int] = {}

    def begin(self, todo: Sequence[Todo]) -> None:
        """See runner.Watcher."""
        self.left = {item.cell.key: samples_in(item) for item in todo}
        self.total = sum(self.left.values())
        self.settled, self.start = 0, time.monotonic()
        if todo:
            self.write(f"{len(todo)} cells to run, {self.total} samples")

    def say(self, text: str) -> None:
        """See runner.Watcher."""
        self.write(text)

    def moved(self, cell: Cell, samples: int) -> None:
        """See runner.Watcher."""
        self.settled += samples
        self.left[cell.key] -= samples
        now = time.monotonic()
        if not samples or (self.left[cell.key] and now - self.last < _SECONDS_BETWEEN_LINES):
            return
        self.last = now
        gone = now - self.start
        left = gone / self.settled * (self.total - self.settled)
        eta = f", about {left:.0f} s left" if self.settled > _EARLY * self.total else ""
        done = "done" if not self.left[cell.key] else f"{self.left[cell.key]} samples left"
        whole = f"{self.settled}/{self.total}, {gone:.0f} s{eta}"
        self.write(f"{cell.title}: {done} (all: {whole})")

    def failed(self, cell: Cell, reason: str) -> None:
        """See runner.Watcher."""
        self.write(f"failed: {cell.title}: {reason}")

    def warn(self, text: str) -> None:
        """See runner.Watcher."""
        self.write(f"warning: {text}")

    def restarted(self, cell: Cell, item: Todo) -> None:
        """See runner.Watcher."""
        samples = samples_in(item)
        self.total += samples - self.left.pop(cell.key)
        self.left[item.cell.key] = samples

    def end(self) -> None:
        """See runner.Watcher."""


def watcher(*, quiet: bool) -> Bars | Lines:
    """Bars where standard error is a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return Lines(lambda _: None)
    console = Console(stderr=True)
    if console.is_terminal:
        return Bars(console)
    return Lines(lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201  the terminal's other half

"""A job carried out once, or on more and more samples until its intervals are narrow enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench import data
from bench.executors import Executor
from bench.parts import data_part_of
from bench.plan import AUDIT, BLOCK, DataPart, whole_blocks
from bench.report.curves import share
from bench.report.frames import Entry, boards
from bench.report.groups import by
from bench.resolution import Job
from bench.runner import Watcher, drop, execute
from bench.stats import half_width, needed_for
from bench.store import Store


def rounds(
    job: Job,
    store: Store,
    executor: Executor,
    watcher: Watcher,
    half: float | None = None,
    *,
    fresh: bool = False,
) -> Iterator[Job]:
    """Carries a job out (see runner.execute) and yields it as it was. Where half is given, goes on,
    dataset by dataset, until the interval of every row of its leaderboard is no wider than that to
    either side or the split is used up, and yields after each round.

    Stored blocks are reused, so that what comes out is what a run on the last n would have stored;
    cells that this run made on the way there are forgotten.
    """
    if half is None:
        yield execute(job, store, executor, watcher, fresh=fresh)
        return
    if fresh:
        drop(store, store.kin(job.cells))
    settled: tuple[Job, ...] = ()
    of_data = [
        job.of(cells)
        for cells in by(job.cells, lambda cell: (cell.data.name, cell.data.fingerprint))
    ]
    for place, part in enumerate(of_data):

        def carried_out(one: Job) -> Job:
            return execute(one, store, executor, watcher)

        done = part
        for done in _narrowed(part, half, store, watcher, carried_out):
            yield _joined([*settled, done, *of_data[place + 1 :]])
        settled = (*settled, done)


def _narrowed(
    job: Job, half: float, store: Store, watcher: Watcher, carried_out: Callable[[Job], Job]
) -> Iterator[Job]:
    """The rounds of a job on one dataset."""
    made: list[str] = []
    wanted: Job | None = job
    while wanted is not None:
        known = set(store.kin(wanted.cells))
        job = carried_out(wanted)
        yield job
        keys = [cell.key for cell in job.cells]
        if not store.failures(keys):
            drop(store, [key for key in made if key not in keys])
            made = []
        made += [key for key in keys if key not in known]
        wanted = _grown(job, half, store, watcher)


def _grown(job: Job, half: float, store: Store, watcher: Watcher) -> Job | None:
    """The job on as many samples as the intervals it came to ask for; None where they are narrow
    enough, or nothing is left.
    """
    records = store.records(cell.key for cell in job.cells)
    entries = [entry for board in boards(records) for entry in board if entry.cells]
    if not entries:
        return None
    intervals = [share(entry.right) for entry in entries]
    widest = max(range(len(entries)), key=lambda place: half_width(intervals[place]))
    width = half_width(intervals[widest])
    if width <= half:
        return None
    of = job.cells[0].data
    split = _dataset(job)
    told = f"{of.name}: {_name(entries[widest])} is known to within {width:.2g} on n = {of.n:,}"
    size = len(split.test)
    if of.n >= size:
        watcher.warn(f"{told}, not {half:g}: the test set is used up")
        return None
    least = max(needed_for(float(interval), half) for interval in intervals)
    n = whole_blocks(min(size, max(least, of.n + BLOCK)), size)
    watcher.say(f"{told}, not {half:g}: going on with n = {n:,}")
    return _on(job, data_part_of(split, n, of.reference))


def _dataset(job: Job) -> data.Dataset:
    source = job.sources[job.cells[0].key].data
    return data.dataset_of(source, job.data_root) if isinstance(source, str) else source


def _name(entry: Entry) -> str:
    return f"{entry.of.model} / {entry.of.defense}"


def _on(job: Job, samples: DataPart) -> Job:
    """The job on other samples of its dataset; an audit keeps its own."""
    made = [
        (cell if cell.attack.kind == AUDIT else replace(cell, data=samples), job.sources[cell.key])
        for cell in job.cells
    ]
    return replace(
        job,
        cells=tuple(cell for cell, _ in made),
        sources={cell.key: source for cell, source in made},
    )


def _joined(jobs: Sequence[Job]) -> Job:
    """Jobs on several datasets as one."""
    sources = {key: source for job in jobs for key, source in job.sources.items()}
    cells = tuple(cell for job in jobs for cell in job.cells)
    return replace(jobs[0], cells=cells, sources=sources)

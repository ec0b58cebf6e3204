"""Where a run's events go: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from colonnade.events import (
    BlockChecked,
    BlockDamaged,
    BlockDone,
    BlockFailed,
    ClusterReady,
    Event,
    Listener,
    NoWorkers,
    RunFinished,
    RunStarted,
    Stopping,
    WaitingForWorkers,
)

__all__ = ["listening", "told"]

# Plain lines come at most this often, in seconds
_EVERY = 5.0


@contextmanager
def listening(console: Console) -> Iterator[Listener]:
    """Yield a listener that shows a run on a console: a bar if it is a terminal, else lines."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} columns"),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        yield _Bar(bar)


def told(event: Event) -> str:
    """One line that tells an event."""
    match event:
        case RunStarted():
            found = f", {event.blocks_done:,} of them done already" if event.blocks_done else ""
            blocks = "1 block" if event.blocks == 1 else f"{event.blocks:,} blocks"
            columns = "1 column" if event.columns == 1 else f"{event.columns:,} columns"
            return f"{event.store}: {columns} in {blocks}{found}"
        case ClusterReady():
            workers = "1 worker" if event.workers == 1 else f"{event.workers} workers"
            threads = "1 thread" if event.threads == 1 else f"{event.threads} threads in all"
            return f"{event.kind} cluster: {workers}, {threads}; dashboard {event.dashboard}"
        case WaitingForWorkers():
            return (
                f"waiting for {event.missing} of {event.wanted} workers of {event.cluster}, up to "
                f"{event.seconds:g} s"
            )
        case NoWorkers():
            return f"no workers: waiting for one, up to {event.seconds:g} s"
        case Stopping():
            return (
                f"{signal.Signals(event.signum).name}: blocks in flight have {event.seconds:g} s "
                "to finish; a second signal ends the run at once"
            )
        case BlockDone():
            return f"block {event.block}: {_columns(event)}"
        case BlockFailed():
            return f"block {event.block}: {_columns(event)} failed: {event.cause}"
        case BlockDamaged():
            place = "" if event.block is None else f"block {event.block}: {_columns(event)} "
            return f"{place}damaged: {event.cause}"
        case BlockChecked():
            return f"{event.stop:,} of {event.columns:,} columns verified"
        case RunFinished():
            return _finished(event)


def _columns(event: BlockDone | BlockFailed | BlockDamaged) -> str:
    return f"columns {event.start} to {event.stop - 1}"


def _finished(event: RunFinished) -> str:
    columns = "1 column" if event.nonfinite == 1 else f"{event.nonfinite:,} columns"
    nonfinite = f"; {columns} of X not finite" if event.nonfinite else ""
    if not event.blocks_computed and not event.blocks_failed:
        return f"{event.store} is complete; there was nothing to compute{nonfinite}"
    rate = event.bytes_written / event.seconds
    return (
        f"{event.store} is {event.state}: {event.blocks_computed:,} of {event.blocks:,} blocks "
        f"computed in this run, {event.blocks_failed:,} failed; {_decimal(event.bytes_written)} "
        f"in {event.seconds:.1f} s ({_decimal(rate)}/s with start and end), "
        f"workers' peak memory {_decimal(event.peak_memory)}{nonfinite}"
    )


class _Meter:
    """Columns and bytes of this run, and when its first block was begun."""

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.columns = 0
        self.bytes = 0
        self.since = time.monotonic()

    def count(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.total, self.before = event.columns, event.columns_done
        elif isinstance(event, ClusterReady):
            self.since = time.monotonic()
        elif isinstance(event, BlockDone):
            self.columns += event.columns
            self.bytes += event.bytes_written

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self.since, 1e-9)

    @property
    def left(self) -> float:
        """Seconds to the end, at the rate so far."""
        missing = self.total - self.before - self.columns
        return missing * self.elapsed / self.columns if self.columns else float("inf")

    @property
    def rates(self) -> str:
        columns, gigabytes = self.columns / self.elapsed, self.bytes / self.elapsed / 1e9
        return f"{columns:,.0f} columns/s, {gigabytes:.2f} GB/s"


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._meter = _Meter()
        self._next = 0.0
        self._next_checked = time.monotonic() + _EVERY

    def __call__(self, event: Event) -> None:
        self._meter.count(event)
        if isinstance(event, BlockChecked):
            if time.monotonic() >= self._next_checked:
                self._next_checked = time.monotonic() + _EVERY
                self._say(told(event))
        elif not isinstance(event, BlockDone | RunFinished):
            self._say(told(event))
        elif isinstance(event, BlockDone) and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            meter = self._meter
            done = meter.before + meter.columns
            self._say(
                f"{done:,} of {meter.total:,} columns ({done / meter.total:.0%}), "
                f"{meter.rates}, {meter.left:.0f} s left"
            )

    def _say(self, line: str) -> None:
        # Whoever read the lines may have gone; the run goes on
        with suppress(BrokenPipeError, SystemExit):
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._meter = _Meter()
        self._task = bar.add_task("starting", total=None, visible=False, rates="")

    def __call__(self, event: Event) -> None:
        self._meter.count(event)
        if isinstance(event, BlockDone):
            self._bar.update(self._task, advance=event.columns, rates=self._meter.rates)
            return
        if isinstance(event, BlockChecked):
            self._bar.update(
                self._task,
                description="verified",
                total=event.columns,
                completed=event.stop,
                visible=True,
            )
            return
        if isinstance(event, RunFinished):
            return
        self._bar.console.print(told(event), soft_wrap=True, highlight=False, markup=False)
        if isinstance(event, ClusterReady):
            self._bar.update(
                self._task,
                description="blocks",
                total=self._meter.total,
                completed=self._meter.before,
                visible=True,
            )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rates"]))


def _decimal(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError

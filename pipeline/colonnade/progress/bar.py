"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from colonnade.events import BlockChecked, BlockDone, ClusterReady, Event, Listener, RunFinished
from colonnade.progress.meter import Meter
from colonnade.progress.telling import Few, describe

__all__ = ["bar"]


@contextmanager
def bar(console: Console) -> Iterator[Listener]:
    """Yield a listener that draws a bar and prints other events above it."""
    with Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} columns"),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
    ) as drawn:
        listener = _Bar(drawn)
        try:
            yield listener
        finally:
            listener.end()


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._meter = Meter()
        self._few = Few()
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
        if self._few.lets(event):
            self._say(describe(event))
        if isinstance(event, ClusterReady):
            self._bar.update(
                self._task,
                description="blocks",
                total=self._meter.total,
                completed=self._meter.before,
                visible=True,
            )

    def end(self) -> None:
        for line in self._few.rest():
            self._say(line)

    def _say(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True, highlight=False, markup=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rates"]))

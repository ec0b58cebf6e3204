"""Describe an event in one line, and write to a file that may fail."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any, TextIO, cast

from colonnade.errors import listed, visible
from colonnade.events import (
    BlockChecked,
    BlockDamaged,
    BlockDone,
    BlockFailed,
    ClusterExposed,
    ClusterReady,
    Event,
    FeaturesOrdered,
    HolderWatched,
    InputChanged,
    InputTouched,
    NoWorkers,
    RunFinished,
    RunStarted,
    Stalled,
    Stopping,
    StoreGrown,
    StoreLabelled,
    WaitingForWorkers,
    WorkerReplaced,
)
from colonnade.formatting import counted, format_seconds

__all__ = ["Few", "describe", "forgiving"]

# Most lines for events that may occur thousands of times, and most workers named in a line
_FEW = 10
_FEW_WORKERS = 3


def describe(event: Event) -> str:
    """Describe an event in one line."""
    return visible(_text(event))


def _text(event: Event) -> str:
    match event:
        case RunStarted():
            found = f", {event.blocks_done:,} of them done already" if event.blocks_done else ""
            columns, blocks = counted(event.columns, "column"), counted(event.blocks, "block")
            return f"{event.store}: {columns} in {blocks}{found}"
        case HolderWatched():
            return (
                f"{event.store} is held by {event.holder}: waiting up to {event.seconds:g} s for a "
                "heartbeat of that run"
            )
        case StoreGrown() | StoreLabelled() | FeaturesOrdered() | InputTouched() | InputChanged():
            return _changed(event)
        case ClusterExposed() | ClusterReady():
            return _cluster(event)
        case WaitingForWorkers() | NoWorkers() | Stalled() | WorkerReplaced():
            return _waiting(event)
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


def _changed(
    event: StoreGrown | StoreLabelled | FeaturesOrdered | InputTouched | InputChanged,
) -> str:
    if isinstance(event, InputTouched | InputChanged):
        return _other_input(event)
    if isinstance(event, FeaturesOrdered):
        more = ", …" * (event.features > len(event.names))
        return (
            f"{event.moved:,} of {event.features:,} features have another position in "
            f"{event.input} than in the network: matched by name, they are used in the network's "
            f"order, {listed(event.names)}{more}"
        )
    if isinstance(event, StoreLabelled):
        names, scales = (", ".join(n) or "nothing" for n in (event.names, event.scales))
        return f"{event.store} has the job's labels now: names of {names}, scales of {scales}"
    again = ", and its last one is computed again" if event.blocks_again else ""
    return (
        f"X has grown from {event.columns_before:,} to {event.columns:,} columns: the "
        f"store has {counted(event.blocks_new, 'new block')}{again}"
    )


def _cluster(event: ClusterExposed | ClusterReady) -> str:
    if isinstance(event, ClusterExposed):
        return f"warning: {event.cluster}: {event.reason}"
    workers, threads = counted(event.workers, "worker"), counted(event.threads, "thread")
    return f"{event.kind} cluster: {workers}, {threads} in all; dashboard {event.dashboard}"


def _other_input(event: InputTouched | InputChanged) -> str:
    if isinstance(event, InputTouched):
        return (
            f"{event.input} was written to during the run: the columns in its fingerprint are "
            "unchanged, but others may have changed"
        )
    gone = f": {counted(len(event.blocks), 'block')} discarded" if event.blocks else ""
    return f"{event.input} has changed during the run ({event.cause}){gone}"


def _waiting(event: WaitingForWorkers | NoWorkers | Stalled | WorkerReplaced) -> str:
    if isinstance(event, NoWorkers):
        return f"no workers are left: waiting for one, up to {event.seconds:g} s"
    if isinstance(event, Stalled):
        return _stalled(event)
    if isinstance(event, WorkerReplaced):
        return f"the worker {event.worker} is replaced, and others take its blocks: {event.cause}"
    return (
        f"waiting for {event.missing} of {event.wanted} workers of {event.cluster}, up to "
        f"{event.seconds:g} s"
    )


def _stalled(event: Stalled) -> str:
    shown = ", ".join(event.workers[:_FEW_WORKERS])
    more = len(event.workers) - _FEW_WORKERS
    others = f" and {more} more" if more > 0 else ""
    return (
        f"no block was finished for {format_seconds(event.seconds)}; "
        f"{shown or 'no worker'}{others} {'has' if len(event.workers) < 2 else 'have'} blocks to "
        "compute; a worker that hangs is replaced (cluster.stall_timeout)"
    )


def _columns(event: BlockDone | BlockFailed | BlockDamaged) -> str:
    return f"columns {event.start} to {event.stop - 1}"


def _finished(event: RunFinished) -> str:
    new = f", {counted(event.columns_new, 'column')} more than before" if event.columns_new else ""
    nonfinite = _not_finite(event)
    if not event.blocks_computed and not event.blocks_failed:
        return f"{event.store} is complete; there was nothing to compute{nonfinite}"
    size, rate = _decimal(event.bytes_written), _decimal(event.bytes_written / event.seconds)
    return (
        f"{event.store} is {event.state}{new}: {event.blocks_computed:,} of {event.blocks:,} "
        f"blocks computed in this run, {event.blocks_failed:,} failed; {size} in "
        f"{event.seconds:.1f} s ({rate}/s including start and end), "
        f"workers' peak memory {_decimal(event.peak_memory)}{nonfinite}"
    )


def _not_finite(event: RunFinished) -> str:
    message = f"; {counted(event.nonfinite, 'column')} of X not finite" if event.nonfinite else ""
    if event.nonfinite_results:
        message += f"; results of {counted(event.nonfinite_results, 'column')} not finite"
    names = ", ".join(event.nonfinite_statistics)
    return f"{message}; {names} not finite" if names else message


def forgiving(file: TextIO) -> TextIO:
    """Return a file that ignores write errors, so that a failing log ends no run.

    The log's disk may be full, its reader may be gone, or its terminal may have hung up.
    """
    return cast(TextIO, _Forgiving(file))


class _Forgiving:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class Few:
    """Shows the first blocks that failed or are damaged; counts the others for the end."""

    def __init__(self) -> None:
        self._seen = {BlockFailed: 0, BlockDamaged: 0}

    def lets(self, event: Event) -> bool:
        """Count an event, and return whether to show it."""
        kind = type(event)
        if kind not in self._seen:
            return True
        self._seen[kind] += 1
        return self._seen[kind] <= _FEW

    def rest(self) -> list[str]:
        """Return lines with the number of events not shown since the last call."""
        words = {BlockFailed: "failed", BlockDamaged: "damaged"}
        more = {words[kind]: seen - _FEW for kind, seen in self._seen.items() if seen > _FEW}
        self._seen = dict.fromkeys(self._seen, 0)
        return [
            f"and {counted(number, 'more block')} {word}; --log json lists them all"
            for word, number in more.items()
        ]


def _decimal(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError

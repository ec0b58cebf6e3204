"""The status of a store, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from colonnade.errors import sanitize, visible
from colonnade.formatting import counted, format_seconds
from colonnade.store.lease import LeaseOwner
from colonnade.store.record import Record

__all__ = ["Status", "ranges"]

_TOLD = {
    "created", "finished", "folded", "growth", "nonfinite", "nonfinite_results",
    "nonfinite_statistics", "versions", "job",
}  # fmt: skip


@dataclass(frozen=True)
class Status:
    """The status of a store: what it holds, what is missing, and who is writing it."""

    path: str
    record: Record
    missing: tuple[int, ...]
    holder: LeaseOwner | None
    absent: tuple[str, ...] = ()
    """Arrays that a finished run had written and that no longer exist."""

    @property
    def state(self) -> str:
        """writing, complete, or damaged: it was complete, and something is missing since."""
        damaged = (self.missing or self.absent) and self.record.state == "complete"
        return "damaged" if damaged else self.record.state

    @property
    def failed(self) -> dict[int, str]:
        """Causes of the first missing blocks that the last run could not compute, by block.

        Empty if that run was killed or is still at work.
        """
        missing = set(self.missing)
        return {f.block: f.cause for f in self.record.failed if f.block in missing}

    @property
    def columns_done(self) -> int:
        """Number of columns in the blocks that are done."""
        return self.record.grid.columns - self.record.grid.count(self.missing)

    @property
    def progress(self) -> str:
        """How much of the store is done, in words."""
        grid = self.record.grid
        gone = f", but {', '.join(self.absent)} {_are(self.absent)} not" if self.absent else ""
        return (
            f"{grid.blocks - len(self.missing):,} of {grid.blocks:,} blocks are there "
            f"({self.columns_done:,} of {grid.columns:,} columns){gone}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain values, for JSON."""
        record, grid = self.record, self.record.grid
        return {
            "path": self.path,
            "state": self.state,
            "columns": grid.columns,
            "columns_done": self.columns_done,
            "blocks": grid.blocks,
            "blocks_done": grid.blocks - len(self.missing),
            "missing": list(self.missing),
            "absent": list(self.absent),
            "failed": [
                {"block": block, "start": bounds[0], "stop": bounds[1], "cause": cause}
                for block, cause in self.failed.items()
                for bounds in [grid.bounds(block)]
            ],
            "held_by": self._holder,
            **record.model_dump(mode="json", include=_TOLD),
        }

    @property
    def _holder(self) -> dict[str, Any] | None:
        held = self.holder
        return (
            None
            if held is None
            else {**asdict(held), "seconds_silent": held.silent, "gone": held.is_gone}
        )

    def __str__(self) -> str:
        record, grid = self.record, self.record.grid
        output, network = record.job.output, record.network
        done, columns = grid.blocks - len(self.missing), self.columns_done
        lines = [
            f"store     {self.path}, {self.state}",
            f"blocks    {done:,} of {grid.blocks:,} ({columns:,} of {grid.columns:,} columns)",
            f"holds     {', '.join(output.products)}; {output.layout}, {output.dtype}"
            + _not_finite(record),
            (
                f"network   n = {network.inputs}, m = {network.hidden_text}, "
                f"q = {network.outputs}, {record.job.network.sigma_text}; "
                f"{record.job.network.weights}"
            ),
            f"input     {record.job.input.path}"
            + (f"; {record.nonfinite:,} columns are not finite" if record.nonfinite else ""),
            f"made      {record.created} by colonnade {record.versions.get('colonnade')}"
            + (f", finished {record.finished}" if record.finished else ""),
        ]
        labels = record.labels
        named = [*labels.names, *labels.copied]
        if named or labels.left_out:
            words = [f"coordinates of {', '.join(named)}"] if named else []
            words += [f"left out {sanitize(word, 200)}" for word in labels.left_out]
            lines.insert(-1, f"labels    {'; '.join(words)}")
        if record.folded:
            lines.insert(4, f"folded    into the layers: {'; '.join(record.folded)}")
        if record.growth:
            lines.append(f"grown     {record.growth}")
        if self.absent:
            lines.insert(2, f"missing   {', '.join(self.absent)}")
        if self.missing:
            lines.insert(2, f"missing   blocks {ranges(self.missing)}")
        lines += [
            f"failed    block {block}: {sanitize(cause, 500)}"
            for block, cause in self.failed.items()
        ]
        if self.holder:
            silent = self.holder.silent
            heard = (
                "" if silent is None else f", last heartbeat {format_seconds(max(silent, 0))} ago"
            )
            state = ", which is dead" if self.holder.is_gone else heard
            lines.insert(1, f"held by   {self.holder}{state}")
        # The store is not trusted: escape its texts
        return "\n".join(map(visible, lines))


def _not_finite(record: Record) -> str:
    """Describe which results are not finite, if any are."""
    message = ""
    if record.nonfinite_results:
        message = f"; results of {counted(record.nonfinite_results, 'column')} are not finite"
    if record.nonfinite_statistics:
        names = [sanitize(name) for name in record.nonfinite_statistics]
        message += f"; {', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"
    return message


def _are(things: tuple[str, ...]) -> str:
    return "is" if len(things) == 1 else "are"


def ranges(numbers: Iterable[int], bounds: Callable[[int], tuple[int, int]] | None = None) -> str:
    """Write ascending numbers as ranges, 3–7, 12; with `bounds`, the ranges that these span."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if bounds is not None:
        runs = [[bounds(a)[0], bounds(b)[1] - 1] for a, b in runs]
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return ", ".join(texts[:20]) + (
        f" and {len(texts) - 20} more ranges" if len(texts) > 20 else ""
    )

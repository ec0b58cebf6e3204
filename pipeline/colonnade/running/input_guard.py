"""Check that X stays the same from a run's first block to its last.

    client    fingerprint ── at intervals: fingerprint ── … ── before the end: fingerprint
    worker    open ── read, same stamps: write ── read, other stamps: fingerprint ── …

Stamps (a file's size and times, an object's ETag) are compared after every read. Two processes may
see different stamps of one X, for instance of copies on two hosts, and a file may be touched
without a change: then the fingerprint decides. It covers only the columns that the store has, so
that X may grow at its end meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from numpy.typing import NDArray

from colonnade.errors import IncompleteError, InputError, one_line
from colonnade.events import BlockFailed, InputChanged, Listener
from colonnade.formatting import counted
from colonnade.inputs import InputMatrix
from colonnade.inputs.base import Stamps
from colonnade.store import InputRecord, Lease, Store, input_record
from colonnade.store.status import ranges

__all__ = ["ChangedError", "InputGuard", "SteadyColumns", "stamp_of"]

# A writer may be active: X has changed if two looks, this many seconds apart, find the same
# difference. After _LOOKS looks that differ, X counts as changed too
_PAUSE = 1.0
_LOOKS = 20
# Attempts to read columns that are being written, before the block fails and is retried later
_READINGS = 3
# Fewest seconds between two checks on the client; at least _RARELY times the duration of a check
_EVERY = 60.0
_RARELY = 100

# Errors for an X that cannot be read, for instance because it was deleted
_UNREADABLE = (InputError, OSError, ValueError)

Opener = Callable[[], InputMatrix]


class ChangedError(Exception):
    """X is not the X that the store is being made from."""


class _Seen(NamedTuple):
    """An open X, and its stamps at the time when it matched the store's record."""

    columns: InputMatrix
    stamps: Stamps


def stamp_of(stamps: Stamps) -> str:
    """Hash stamps into one text that other processes can compare."""
    return hashlib.sha256(repr(sorted(stamps.items())).encode()).hexdigest()


def _look(reopen: Opener, record: InputRecord) -> _Seen:
    """Reopen X and check that it still matches the record.

    Raises
    ------
    ChangedError
        X does not match the record.
    InputError, OSError, ValueError
        X cannot be read: it is unknown whether it has changed.
    """
    before = None
    for _ in range(_LOOKS):
        try:
            seen, different = _compared(reopen, record)
        except (InputError, ValueError) as error:
            if str(error) == before:
                raise
            before = str(error)
        else:
            if seen is not None and not different:
                return seen
            difference = "; ".join(different)
            if difference and difference == before:
                raise ChangedError(difference)
            before = difference
        time.sleep(_PAUSE)
    raise ChangedError("another process keeps writing to it")


def _compared(reopen: Opener, record: InputRecord) -> tuple[_Seen | None, list[str]]:
    """Return X (None if it was written to meanwhile), and its differences from the record."""
    columns = reopen()
    p = record.columns
    stamps = columns.stamps(0, min(p, columns.p))
    different = record.differences(input_record(columns, p))
    steady = columns.stamps(0, min(p, columns.p)) == stamps
    return (_Seen(columns, stamps) if steady else None), different


class SteadyColumns:
    """X on a worker; each read is checked to come from the recorded X.

    Parameters
    ----------
    reopen
        Opens X.
    record
        The store's record of X.
    stamp
        X's stamp when it matched the record on the client: if it is the same here, so is X.

    Attributes
    ----------
    touched
        Whether X was written to during the run while its fingerprint covers only some values.

    Raises
    ------
    ChangedError
        X does not match the record; also from `read`.
    InputError, OSError, ValueError
        X cannot be read.
    """

    def __init__(self, reopen: Opener, record: InputRecord, stamp: str = "") -> None:
        self._reopen = reopen
        self._record = record
        self._looking = threading.Lock()
        self.touched = False
        columns = reopen()
        stamps = columns.stamps(0, min(record.columns, columns.p))
        known = stamp_of(stamps) == stamp
        self._seen = _Seen(columns, stamps) if known else _look(reopen, record)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns, (n, stop - start).

        Raises
        ------
        InputError, OSError, ValueError
            X cannot be read, or another process keeps writing to it.
        """
        for _ in range(_READINGS):
            seen = self._seen
            try:
                X = seen.columns.read(start, stop)
            # A reader may raise anything if its file was replaced
            except Exception:
                if self._is_steady(seen, start, stop):
                    raise
            else:
                if self._is_steady(seen, start, stop):
                    return X
            self._look_again(seen)
        message = "another process keeps writing to it"
        raise OSError(errno.EBUSY, message, self._seen.columns.path)

    def _is_steady(self, seen: _Seen, start: int, stop: int) -> bool:
        now = seen.columns.stamps(start, stop)
        return all(seen.stamps.get(path) == stamp for path, stamp in now.items())

    def _look_again(self, seen: _Seen) -> None:
        with self._looking:
            # Another thread may have looked already
            if self._seen is seen:
                self._seen = _look(self._reopen, self._record)
                whole = self._seen.columns.is_compared_whole(self._record.columns)
                self.touched = self.touched or not whole


class InputGuard:
    """Checks, on the client, that X is still the X that a store is being made from.

    The computation of the blocks runs inside it as a context: if that fails, X is checked too.

    Parameters
    ----------
    reopen
        Opens X; None if there is nothing to guard.
    record
        The record of X at the beginning of the run.
    missing
        Blocks of the store that were missing then.

    Attributes
    ----------
    cause
        How X has changed, once that is known.
    """

    def __init__(
        self,
        reopen: Opener | None,
        record: InputRecord,
        store: Store,
        lease: Lease,
        missing: list[int],
        listener: Listener,
    ) -> None:
        self._reopen = reopen
        self._record = record
        self._store = store
        self._lease = lease
        self._missing = missing
        self._listener = listener
        self._next = time.monotonic() + _EVERY
        # Finished blocks: those known to come from the recorded X, and those since the last check
        self._sound: set[int] = set()
        self._unsure: list[int] = []
        self.cause: str | None = None

    def __enter__(self) -> None:
        """Begin to compute blocks."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """If a run fails, discard the blocks of a changed X."""
        if isinstance(error, IncompleteError | OSError):
            with suppress(*_UNREADABLE):
                self._compare()
            with suppress(OSError):
                self._discard()

    def arrived(self, block: int) -> None:
        """Take note of a finished block."""
        self._unsure.append(block)

    def report(self, cause: str) -> None:
        """Take note that a worker has found a changed X."""
        self.cause = self.cause or cause

    def look(self) -> None:
        """Check X at intervals; ignore an X that cannot be read, since it may be at the end."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            with suppress(*_UNREADABLE):
                self._compare()

    def settle(self) -> None:
        """Ensure, before a run ends, that all blocks of the store come from one X.

        Raises
        ------
        IncompleteError
            X has changed, and the blocks that may come from the changed X have been discarded; or
            all blocks are done, but X cannot be read, and the check is left to the next run.
        """
        try:
            self._compare()
        except _UNREADABLE as error:
            # Blocks that could not read X report that themselves
            if self._store.missing():
                return
            path, x = self._store.path, self._store.record.job.input.path
            raise IncompleteError(
                f"{path} is incomplete: {x} cannot be read any more "
                f"({one_line(error).rstrip('.')}), so it is unknown whether it has changed during "
                "the run. Once it can be read, the same command finishes the store."
            ) from error
        self._discard()

    def _compare(self) -> None:
        if self._reopen is None or self.cause is not None or not self._unsure:
            return
        began, done = time.monotonic(), len(self._unsure)
        try:
            _look(self._reopen, self._record)
        except ChangedError as error:
            self.cause = str(error)
        else:
            self._sound.update(self._unsure[:done])
            del self._unsure[:done]
        ended = time.monotonic()
        self._next = ended + max(_EVERY, _RARELY * (ended - began))

    def _discard(self) -> None:
        if self.cause is None:
            return
        store, x = self._store, self._store.record.job.input.path
        self._lease.confirm()
        if not store.is_current():
            return
        suspects = sorted(store.done() & {*self._missing} - self._sound)
        for block in suspects:
            store.discard(block)
        self._listener(InputChanged(x, self.cause, tuple(suspects)))
        cause = f"X has changed during the run ({self.cause})"
        store.fail(BlockFailed(block, *store.grid.bounds(block), cause) for block in suspects)
        message = "no block can come from the new X"
        if suspects:
            blocks = counted(len(suspects), "block")
            message = f"{blocks} that may come from the new X discarded: {ranges(suspects)}"
        left = store.grid.blocks - len(store.missing())
        raise IncompleteError(
            f"{store.path} is incomplete: {x} has changed while the run read it ({self.cause}); "
            f"{message}. {left:,} of {store.grid.blocks:,} blocks are left, all from the X with "
            "which the run began. Restore that X and give the same command, which computes what is "
            "missing; or recompute the store from the new X with --overwrite.",
            dict.fromkeys(suspects, cause),
        )

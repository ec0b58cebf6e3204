"""X must be the same from a run's first block to its last; who reads it looks whether it is.

    client    fingerprint ── now and then: fingerprint ── … ── before the end: fingerprint
    worker    open ── read, stamps as before? write ── read, stamps other: fingerprint ── …

A stamp (a file's size and times, an object's ETag) is looked at behind every reading. Stamps of two
processes may differ, as those of copies on two hosts do, and somebody may touch a file: then the
fingerprint decides. It is the store's, of its own columns, so that X may grow at its end meanwhile.
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

# A writer may be at work: X has changed where it looks the same twice, so many seconds apart
_PAUSE = 1.0
_LOOKS = 20
# Readings of a block that somebody writes to meanwhile, before the block waits
_READINGS = 3
# Seconds between two looks of the client, and how many times longer than a look they are at least
_EVERY = 60.0
_RARELY = 100

# What is raised where X cannot be read, as when it has gone
_UNREADABLE = (InputError, OSError, ValueError)

Opener = Callable[[], InputMatrix]


class ChangedError(Exception):
    """X is no longer the one of which the store is being made."""


class _Seen(NamedTuple):
    """X as it is open, and its stamps when it was found to be the store's."""

    columns: InputMatrix
    stamps: Stamps


def stamp_of(stamps: Stamps) -> str:
    """Put stamps into a word, for other processes."""
    return hashlib.sha256(repr(sorted(stamps.items())).encode()).hexdigest()


def _look(reopen: Opener, record: InputRecord) -> _Seen:
    """Open X anew, and find that it is still the one that is recorded.

    Raises
    ------
    ChangedError
        It is another one.
    InputError, OSError, ValueError
        It cannot be read: whether it has changed is not known.
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
            told = "; ".join(different)
            if told and told == before:
                raise ChangedError(told)
            before = told
        time.sleep(_PAUSE)
    raise ChangedError("somebody goes on writing to it")


def _compared(reopen: Opener, record: InputRecord) -> tuple[_Seen | None, list[str]]:
    """Say in what X differs from what is recorded; None where it was written to meanwhile."""
    columns = reopen()
    p = record.columns
    stamps = columns.stamps(0, min(p, columns.p))
    different = record.differences(input_record(columns, p))
    steady = columns.stamps(0, min(p, columns.p)) == stamps
    return (_Seen(columns, stamps) if steady else None), different


class SteadyColumns:
    """X on a worker, whose every reading is of the X that is recorded.

    Parameters
    ----------
    reopen
        Opens X.
    record
        Of the store.
    stamp
        X's when the client found it to be the store's: where it is the same here, so is X.

    Attributes
    ----------
    touched
        Whether somebody wrote to X meanwhile, where the fingerprint is of some values alone.

    Raises
    ------
    ChangedError
        It is another X; also from `read`.
    InputError, OSError, ValueError
        It cannot be read.
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
            X cannot be read; or somebody goes on writing to it.
        """
        for _ in range(_READINGS):
            seen = self._seen
            try:
                X = seen.columns.read(start, stop)
            # A file that is another one by now breaks a reader in any way
            except Exception:
                if self._is_steady(seen, start, stop):
                    raise
            else:
                if self._is_steady(seen, start, stop):
                    return X
            self._look_again(seen)
        told = "somebody goes on writing to it"
        raise OSError(errno.EBUSY, told, self._seen.columns.path)

    def _is_steady(self, seen: _Seen, start: int, stop: int) -> bool:
        now = seen.columns.stamps(start, stop)
        return all(seen.stamps.get(path) == stamp for path, stamp in now.items())

    def _look_again(self, seen: _Seen) -> None:
        with self._looking:
            # Another thread may have been faster
            if self._seen is seen:
                self._seen = _look(self._reopen, self._record)
                whole = self._seen.columns.is_compared_whole(self._record.columns)
                self.touched = self.touched or not whole


class InputGuard:
    """Looks, on the client, whether X is still the one of which a store is being made.

    As a context, around the computation of the blocks: where that fails, X is looked at too.

    Parameters
    ----------
    reopen
        Opens X; None where there is nothing to look after.
    record
        Of X, as it was when the run began.
    missing
        Blocks of the store that were missing then.

    Attributes
    ----------
    cause
        In what X has changed, once that is known.
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
        # Blocks that are done: those of the X that is recorded, and those since the last look
        self._sound: set[int] = set()
        self._unsure: list[int] = []
        self.cause: str | None = None

    def __enter__(self) -> None:
        """Begin to compute blocks."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Where a run fails, leave no block of another X behind."""
        if isinstance(error, IncompleteError | OSError):
            with suppress(*_UNREADABLE):
                self._compare()
            with suppress(OSError):
                self._discard()

    def arrived(self, block: int) -> None:
        """Take note that a block is done."""
        self._unsure.append(block)

    def report(self, cause: str) -> None:
        """Take note that a worker has found another X."""
        self.cause = self.cause or cause

    def look(self) -> None:
        """Look now and then; what cannot be read now may be at the end."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            with suppress(*_UNREADABLE):
                self._compare()

    def settle(self) -> None:
        """See to it, before a run ends, that the store holds blocks of one X alone.

        Raises
        ------
        IncompleteError
            X has changed, and the blocks that may be of another one have been discarded; or it
            cannot be read, though all blocks are done, and it is left to the next run.
        """
        try:
            self._compare()
        except _UNREADABLE as error:
            # Of blocks that could not read it, each tells so itself
            if self._store.missing():
                return
            path, x = self._store.path, self._store.record.job.input.path
            raise IncompleteError(
                f"{path} is incomplete: {x} cannot be read any more ({one_line(error).rstrip('.')}), "
                "so that it is not known whether it changed during the run. Once it can be read, "
                "the same command finishes the store."
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
        told = "no block may be of the new one"
        if suspects:
            blocks = counted(len(suspects), "block")
            told = f"{blocks} that may be of the new one, {ranges(suspects)}, discarded"
        left = store.grid.blocks - len(store.missing())
        raise IncompleteError(
            f"{store.path} is incomplete: {x} has changed while the run read it ({self.cause}); "
            f"{told}. {left:,} of {store.grid.blocks:,} blocks are left, of the X with which the "
            "run began. Restore that X and give the same command, which computes what is missing; "
            "or make the store of the new one with --overwrite.",
            dict.fromkeys(suspects, cause),
        )

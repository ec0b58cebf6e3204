"""One run at a time writes a store: a lease in it, renewed while its run lives.

    nobody   ── acquire ──▶  held by this run  ── renew, renew, … ──▶  release
    another  ── renewed while one watches ──▶  refused
    another  ── its process is gone from this host, or not renewed for `TERM` ──▶  taken over

Clocks of different hosts are never compared: who finds a lease watches whether it changes. Workers
read it too: for a run that has lost its lease they write nothing, and for one that stops they begin
no further block.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from colonnade.errors import IncompleteError, StoreError, one_line, sanitize
from colonnade.events import HolderWatched, Listener, ignore
from colonnade.formatting import now
from colonnade.limits import LEASE_BYTES
from colonnade.process import ProcessId
from colonnade.storage import Place

__all__ = ["FILE", "TERM", "Lease", "LeaseOwner", "acquire", "create", "hold", "holder", "release"]

# In an array's directory: readers list that of the group, and warn of files that they do not know
FILE = "W1/lease.json"

# Seconds without a sign of life after which a run counts as dead
TERM = 30.0
_RENEWALS = 6


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """Who holds a store.

    Attributes
    ----------
    run
        The run's own name, which its tasks carry.
    host, pid, process_started
        Where its process is; when that started, since numbers of processes are used again.
    since
        When the run began to hold the store.
    renewals, renewed
        How often it has said that it lives, and when it last did, by its own clock.
    stopping
        Whether its workers are to begin no further block.
    boot, namespace
        Of the host's kernel, and of the numbers of its processes: containers may share a host's
        name, and each numbers its own. Empty where the system knows neither, and in the leases of
        older versions.
    """

    run: str
    host: str
    pid: int
    process_started: str
    since: str
    renewals: int = 0
    stopping: bool = False
    renewed: str = ""
    boot: str = ""
    namespace: str = ""

    @property
    def silent(self) -> float | None:
        """Seconds since it last said that it lives, as far as the clocks of two hosts agree."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.renewed)).total_seconds()
        except (ValueError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether its process is, or was, one of those whose numbers this process knows."""
        return self._process.is_here

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be dead; of processes elsewhere that takes a while to know."""
        # A run of this very process may have ended where it could not take its lease away
        ended = self.pid == os.getpid() and self.run not in _OURS
        return self._process.is_gone or (self.is_here and ended)

    @property
    def _process(self) -> ProcessId:
        return ProcessId(self.host, self.boot, self.namespace, self.pid, self.process_started)

    def __str__(self) -> str:
        return f"a run on {sanitize(self.host)} (process {self.pid}, since {sanitize(self.since)})"


# Runs of this process that hold a store
_OURS: set[str] = set()

# Half written by one who died, or not ours: somebody's, who gives no sign of life
_UNKNOWN = LeaseOwner("", "a host that is not known", 0, "", "a time that is not known")


class Lease:
    """A run's hold of a store, until it is released or another run takes it."""

    def __init__(self, place: Place, me: LeaseOwner, term: float) -> None:
        self.run = me.run
        self._place = place
        self._me = me
        self._term = term
        self._rival: LeaseOwner | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise IncompleteError where another run has been found in this one's place."""
        if self._rival is not None:
            raise IncompleteError(
                f"{self._place} is in the hands of {self._rival} by now, which took this "
                f"run, silent for {self._term:g} s, for dead. This run ends."
            )

    def confirm(self) -> None:
        """Look, then `check`: before what must not be done to another run's store."""
        self._renew()
        self.check()

    def stop(self) -> None:
        """Tell the workers to begin no further block."""
        with self._lock:
            self._me = replace(self._me, stopping=True)
        # If its disk fails, so do the blocks
        with contextlib.suppress(OSError):
            self._renew()

    def keep(self, done: threading.Event) -> None:
        """Renew it until it is done, or lost."""
        while self._rival is None and not done.wait(self._term / _RENEWALS):
            # A disk that fails for a moment may be back before the term ends
            with contextlib.suppress(OSError):
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            self._me = replace(self._me, renewals=self._me.renewals + 1, renewed=now())
            text = _read(self._place)
            found = None if text is None else _parsed(text)
            if text is None or found is None:
                # In the hands of one who took it for a dead run's, and puts it back
                with contextlib.suppress(FileExistsError):
                    self._place.create(FILE, _written(self._me))
            elif found.run == self.run:
                # Where another is faster, the next look at it tells
                self._place.renew(FILE, text, _written(self._me))
            else:
                self._rival = found


def holder(place: Place) -> LeaseOwner | None:
    """Read who holds the store at a place; None where nobody does.

    Raises
    ------
    OSError
        The lease cannot be read.
    """
    text = _read(place)
    return None if text is None else _parsed(text)


def create(place: Place, run: str) -> None:
    """Put a run's lease into a store that nobody else knows of yet, for it to `hold` later."""
    place.create(FILE, _written(_myself(run)))


@contextmanager
def hold(
    place: Place, run: str, term: float | None = None, listener: Listener = ignore
) -> Iterator[Lease]:
    """Hold the store at a place for a run, and keep holding it until the block ends.

    Parameters
    ----------
    run
        The run's own name.
    term
        Seconds without a sign of life after which a holder counts as dead; `TERM`.
    listener
        Told whom it waits for, where it has to watch another host's run.

    Raises
    ------
    StoreError
        Another run holds it and lives, or the lease cannot be written.
    """
    term = TERM if term is None else term
    me = acquire(place, run, term, listener)
    lease, done = Lease(place, me, term), threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(done,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        done.set()
        renewing.join()
        release(place, run)


def _myself(run: str) -> LeaseOwner:
    _OURS.add(run)
    me, since = ProcessId.current(), now()
    return LeaseOwner(
        run,
        me.host,
        me.pid,
        me.started,
        since,
        renewed=since,
        boot=me.boot,
        namespace=me.namespace,
    )


def acquire(
    place: Place, run: str, term: float | None = None, listener: Listener = ignore
) -> LeaseOwner:
    """Make a run the holder of a place, which need not hold a store yet.

    Raises
    ------
    StoreError
        As for `hold`.
    """
    term, me = TERM if term is None else term, _myself(run)
    try:
        while not _acquired(place, me, term, listener):
            pass
    except StoreError:
        release(place, run)
        raise
    except OSError as error:
        # It may be there, and the answer that told so be lost
        release(place, run)
        raise StoreError(f"{place}: the store cannot be written: {one_line(error)}.") from error
    return me


def release(place: Place, run: str) -> None:
    """Leave a store to others, unless another run holds it already."""
    _OURS.discard(run)
    with contextlib.suppress(OSError):
        found = holder(place)
        if found is not None and found.run == run:
            place.remove(FILE)


def _acquired(place: Place, me: LeaseOwner, term: float, listener: Listener) -> bool:
    text = _read(place)
    if text is None:
        # Of two who find nobody, one makes the file
        with contextlib.suppress(FileExistsError):
            place.create(FILE, _written(me))
            return True
        return False
    found = _parsed(text)
    if found.run == me.run:
        return True
    if _is_alive(place, found, term, listener):
        raise StoreError(
            f"{place} is being written by {found}. Wait for its end, or stop it; once "
            f"it is silent for {term:g} s, the same command takes the store over."
        )
    return place.take_over(FILE, text, _written(me))


def _is_alive(place: Place, found: LeaseOwner, term: float, listener: Listener) -> bool:
    if found.is_here:
        return not found.is_gone
    listener(HolderWatched(str(place), str(found), term))
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(min(term / _RENEWALS / 2, 1))
        seen = holder(place)
        if seen is None or seen.run != found.run:
            # Released; or taken over, which the next look at it tells
            return False
        if seen != found:
            return True
    return False


def _read(place: Place) -> bytes | None:
    try:
        return place.read(FILE, LEASE_BYTES)
    except FileNotFoundError:
        return None
    # No file, or too large a one to be ours
    except ValueError:
        return b""


def _written(held: LeaseOwner) -> bytes:
    return json.dumps(asdict(held)).encode()


def _parsed(text: bytes) -> LeaseOwner:
    try:
        found = LeaseOwner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return _UNKNOWN
    place = (found.host, found.boot, found.namespace)
    texts = (found.run, *place, found.process_started, found.since, found.renewed)
    numbers = (found.pid, found.renewals)
    sound = all(type(value) is str for value in texts) and all(
        type(value) is int and 0 <= value < 2**53 for value in numbers
    )
    return found if sound and type(found.stopping) is bool else _UNKNOWN

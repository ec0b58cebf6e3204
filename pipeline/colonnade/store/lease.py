"""A lease in the store, renewed while its run lives, lets one run at a time write.

    no lease         ── acquire ──▶  held by this run  ── renew, renew, … ──▶  release
    another's lease  ── renewed while this run watches ──▶  refused
    another's lease  ── process gone from this host, or no renewal for `TERM` ──▶  taken over

Clocks of different hosts are never compared: a run that finds a lease watches whether it changes.
Workers read the lease too. They write nothing for a run that has lost it, and begin no further
block for a run that is stopping.
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

# In an array's directory: readers list the group's directory and warn about unknown files
FILE = "W1/lease.json"

# Seconds without a renewal after which a run counts as dead
TERM = 30.0
_RENEWALS = 6


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """The run that holds a store, as its lease describes it.

    Attributes
    ----------
    run
        Unique name of the run, which its tasks carry.
    host, pid, process_started
        Its process. The start time is needed because process ids are reused.
    since
        When the run acquired the lease.
    renewals, renewed
        Number of renewals, and the time of the last one by the owner's clock.
    stopping
        Whether the run's workers must begin no further block.
    boot, namespace
        Ids of the kernel's boot and of the pid namespace: containers may share a host name, and
        each has its own process ids. Empty where the system provides neither, and in the leases of
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
        """Seconds since the last renewal; wrong by the difference between the two hosts' clocks."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.renewed)).total_seconds()
        except (ValueError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether its process runs, or ran, in the pid namespace of this process."""
        return self._process.is_here

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to be dead. Elsewhere, only a silent lease shows a death."""
        # A run of this process may have ended without being able to remove its lease
        ended = self.pid == os.getpid() and self.run not in _OURS
        return self._process.is_gone or (self.is_here and ended)

    @property
    def _process(self) -> ProcessId:
        return ProcessId(self.host, self.boot, self.namespace, self.pid, self.process_started)

    def __str__(self) -> str:
        return f"a run on {sanitize(self.host)} (process {self.pid}, since {sanitize(self.since)})"


# Runs of this process that hold a store
_OURS: set[str] = set()

# An unreadable lease: treat it as an unknown owner's
_UNKNOWN = LeaseOwner("", "an unknown host", 0, "", "an unknown time")


class Lease:
    """A run's lease of a store, until it is released or another run takes it over."""

    def __init__(self, place: Place, me: LeaseOwner, term: float) -> None:
        self.run = me.run
        self._place = place
        self._me = me
        self._term = term
        self._rival: LeaseOwner | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise IncompleteError if another run has taken the lease over."""
        if self._rival is not None:
            raise IncompleteError(
                f"{self._place} was taken over by {self._rival}, because this run missed its "
                f"heartbeat for {self._term:g} s. This run ends; wait for the end of the other one."
            )

    def confirm(self) -> None:
        """Renew, then `check`: call this before a change that must not hit another run's store."""
        self._renew()
        self.check()

    def stop(self) -> None:
        """Make the workers begin no further block."""
        with self._lock:
            self._me = replace(self._me, stopping=True)
        # If the disk fails, the blocks fail as well
        with contextlib.suppress(OSError):
            self._renew()

    def keep(self, done: threading.Event) -> None:
        """Renew the lease until `done` is set or the lease is lost."""
        while self._rival is None and not done.wait(self._term / _RENEWALS):
            # A disk that fails for a moment may recover before the term ends
            with contextlib.suppress(OSError):
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            self._me = replace(self._me, renewals=self._me.renewals + 1, renewed=now())
            text = _read(self._place)
            found = None if text is None else _parsed(text)
            if text is None or found is None:
                # Removed, or moved aside for a moment by a run that tried to take it over
                with contextlib.suppress(FileExistsError):
                    self._place.create(FILE, _written(self._me))
            elif found.run == self.run:
                # If we lose the race, the next renewal detects it
                self._place.renew(FILE, text, _written(self._me))
            else:
                self._rival = found


def holder(place: Place) -> LeaseOwner | None:
    """Return the run that holds the store at a place; None if no run does.

    Raises
    ------
    OSError
        The lease cannot be read.
    """
    text = _read(place)
    return None if text is None else _parsed(text)


def create(place: Place, run: str) -> None:
    """Write a run's lease into a store that no other run can see yet, for it to `hold` later."""
    place.create(FILE, _written(_myself(run)))


@contextmanager
def hold(
    place: Place, run: str, term: float | None = None, listener: Listener = ignore
) -> Iterator[Lease]:
    """Hold the lease of the store at a place for a run until the `with` block ends.

    Parameters
    ----------
    run
        Unique name of the run.
    term
        Seconds without a renewal after which an owner counts as dead; `TERM` by default.
    listener
        Receives an event if a run of another host has to be watched.

    Raises
    ------
    StoreError
        A living run holds the lease, or the lease cannot be written.
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
    """Acquire the lease of a place, which need not hold a store yet.

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
        # The lease may have been written although the answer was lost
        release(place, run)
        raise StoreError(
            f"{place}: the store cannot be written: {one_line(error)}. Check that this host may "
            "write there (output.path)."
        ) from error
    return me


def release(place: Place, run: str) -> None:
    """Remove a run's lease, unless another run holds the store already."""
    _OURS.discard(run)
    with contextlib.suppress(OSError):
        found = holder(place)
        if found is not None and found.run == run:
            place.remove(FILE)


def _acquired(place: Place, me: LeaseOwner, term: float, listener: Listener) -> bool:
    text = _read(place)
    if text is None:
        # `create` is atomic: of two runs that find no lease, one succeeds
        with contextlib.suppress(FileExistsError):
            place.create(FILE, _written(me))
            return True
        return False
    found = _parsed(text)
    if found.run == me.run:
        return True
    if _is_alive(place, found, term, listener):
        raise StoreError(
            f"{place} is being written by {found}. Wait for its end, or stop it. After {term:g} s "
            "without a heartbeat, the same command takes the store over."
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
            # Released, or taken over: the caller reads the lease again
            return False
        if seen != found:
            return True
    return False


def _read(place: Place) -> bytes | None:
    try:
        return place.read(FILE, LEASE_BYTES)
    except FileNotFoundError:
        return None
    # Not a regular file, or too large for a lease
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

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
import errno
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from colonnade.errors import IncompleteError, StoreError, reason, shown

__all__ = ["FILE", "TERM", "Holder", "Lease", "create", "hold", "holder"]

# In an array's directory: readers list that of the group, and warn of files that they do not know
FILE = "W1/lease.json"

# Seconds without a sign of life after which a run counts as dead
TERM = 30.0
_RENEWALS = 6
# Ours take some hundred bytes
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a store.

    Attributes
    ----------
    run
        The run's own name, which its tasks carry.
    host, pid, process_started
        Where its process is; when that started, since numbers of processes are used again.
    since
        When the run began to hold the store.
    renewals
        How often it has said that it lives.
    stopping
        Whether its workers are to begin no further block.
    """

    run: str
    host: str
    pid: int
    process_started: str
    since: str
    renewals: int = 0
    stopping: bool = False

    @property
    def is_here(self) -> bool:
        """Whether its process is, or was, one of this host."""
        return self.host == socket.gethostname() and self.pid > 0

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be dead; of other hosts' processes that takes a while to know."""
        return self.is_here and _started(self.pid) != self.process_started

    def __str__(self) -> str:
        return f"a run on {shown(self.host)} (process {self.pid}, since {shown(self.since)})"


# Half written by one who died, or not ours: somebody's, who gives no sign of life
_UNKNOWN = Holder("", "a host that is not known", 0, "", "a time that is not known")


class Lease:
    """A run's hold of a store, until it is released or another run takes it."""

    def __init__(self, place: Path, me: Holder, term: float) -> None:
        self.run = me.run
        self._place = place
        self._me = me
        self._term = term
        self._rival: Holder | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise IncompleteError where another run has been found in this one's place."""
        if self._rival is not None:
            raise IncompleteError(
                f"{_store(self._place)} is in the hands of {self._rival} by now, which took this "
                f"run, silent for {self._term:g} s, for dead. This run ends."
            )

    def confirm(self) -> None:
        """Look, then `check`: before what must not be done to another run's store."""
        self._renew()
        self.check()

    def stop(self) -> None:
        """Tell the workers to begin no further block."""
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

    def release(self) -> None:
        """Leave the store, unless another run holds it."""
        with contextlib.suppress(OSError):
            found = _read(self._place)
            if found is not None and found.run == self.run:
                _remove(self._place)

    def _renew(self) -> None:
        with self._lock:
            self._me = replace(self._me, renewals=self._me.renewals + 1)
            found = _read(self._place)
            if found is None:
                # In the hands of one who took it for a dead run's, and puts it back
                with contextlib.suppress(FileExistsError):
                    _create(self._place, self._me)
            elif found.run == self.run:
                _replace(self._place, self._me)
            else:
                self._rival = found


def holder(path: str | Path) -> Holder | None:
    """Read who holds the store at a path; None where nobody does.

    Raises
    ------
    OSError
        The lease cannot be read.
    """
    return _read(Path(path) / FILE)


def create(path: str | Path, run: str) -> None:
    """Put a run's lease into a store that nobody else knows of yet, for it to `hold` later."""
    _create(Path(path) / FILE, _myself(run))


@contextmanager
def hold(path: str | Path, run: str, term: float | None = None) -> Iterator[Lease]:
    """Hold the store at a path for a run, and keep holding it until the block ends.

    Parameters
    ----------
    run
        The run's own name.
    term
        Seconds without a sign of life after which a holder counts as dead; `TERM`.

    Raises
    ------
    StoreError
        Another run holds it and lives, or the lease cannot be written.
    """
    term = TERM if term is None else term
    place, me = Path(path) / FILE, _myself(run)
    try:
        _acquire(place, me, term)
    except OSError as error:
        raise StoreError(f"{path}: the store cannot be written: {reason(error)}.") from error
    lease, done = Lease(place, me, term), threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(done,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        done.set()
        renewing.join()
        lease.release()


def _myself(run: str) -> Holder:
    return Holder(run, socket.gethostname(), os.getpid(), _started(os.getpid()), _now())


def _acquire(place: Path, me: Holder, term: float) -> None:
    while True:
        found = _read(place)
        if found is None:
            # Of two who find nobody, one makes the file
            with contextlib.suppress(FileExistsError):
                _create(place, me)
                return
        elif found.run == me.run:
            return
        elif _is_alive(place, found, term):
            raise StoreError(
                f"{_store(place)} is being written by {found}. Wait for its end, or stop it; once "
                f"it is silent for {term:g} s, the same command takes the store over."
            )
        else:
            _bury(place, found)


def _bury(place: Path, dead: Holder) -> None:
    """Take a dead run's lease away; of two who find it, one does."""
    aside = _beside(place)
    try:
        place.rename(aside)
    except FileNotFoundError:
        return
    moved = _read(aside)
    _remove(aside)
    if moved is not None and moved != dead:
        # The other one had already put its own there
        with contextlib.suppress(FileExistsError):
            _create(place, moved)


def _is_alive(place: Path, found: Holder, term: float) -> bool:
    if found.is_here:
        return not found.is_gone
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(min(term / _RENEWALS / 2, 1))
        now = _read(place)
        if now is None or now.run != found.run:
            # Released; or taken over, which the next look at it tells
            return False
        if now != found:
            return True
    return False


def _read(place: Path) -> Holder | None:
    try:
        # Not to wait for whoever writes to a pipe, and not to follow a link to one
        number = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return _UNKNOWN
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return _UNKNOWN
        return _parsed(os.read(number, _MOST_BYTES))
    finally:
        os.close(number)


def _parsed(text: bytes) -> Holder:
    try:
        found = Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return _UNKNOWN
    texts = (found.run, found.host, found.process_started, found.since)
    numbers = (found.pid, found.renewals)
    sound = all(type(value) is str for value in texts) and all(
        type(value) is int and 0 <= value < 2**53 for value in numbers
    )
    return found if sound and type(found.stopping) is bool else _UNKNOWN


def _create(place: Path, held: Holder) -> None:
    with place.open("x") as file:
        file.write(json.dumps(asdict(held)))


def _replace(place: Path, held: Holder) -> None:
    made = _beside(place)
    try:
        made.write_text(json.dumps(asdict(held)))
        made.replace(place)
    finally:
        made.unlink(missing_ok=True)


def _remove(place: Path) -> None:
    place.unlink(missing_ok=True)


def _beside(place: Path) -> Path:
    return place.with_name(f"{place.name}.{uuid.uuid4().hex}.partial")


def _store(place: Path) -> Path:
    return place.parents[len(Path(FILE).parts) - 1]


def _started(pid: int) -> str:
    """When a process of this host started, in the kernel's own words; empty where it is gone."""
    try:
        # Behind the name, which may hold anything: the state is field 3, the start field 22
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _alive_elsewhere(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _alive_elsewhere(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass
    return "running"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""One run at a time writes a store: a lease in it, renewed while its run lives.

    nobody   ── acquire ──▶  held by this run  ── renew, renew, … ──▶  release
    another  ── renewed while one watches ──▶  refused
    another  ── its process is gone from this host, or not renewed for `TERM` ──▶  taken over

Clocks of different hosts are never compared: who finds a lease watches whether it changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from colonnade.errors import StoreError

__all__ = ["FILE", "TERM", "Holder", "hold", "holder"]

FILE = "lease.json"

# Seconds without a sign of life after which a run counts as dead
TERM = 30.0
_RENEWALS = 6


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
    """

    run: str
    host: str
    pid: int
    process_started: str
    since: str
    renewals: int = 0

    def __str__(self) -> str:
        return f"a run on {self.host} (process {self.pid}, since {self.since})"


def holder(path: str | Path) -> Holder | None:
    """Read who holds the store at a path; None where nobody does.

    Raises
    ------
    OSError
        The lease cannot be read.
    """
    return _read(Path(path) / FILE)


def _read(place: Path) -> Holder | None:
    try:
        return Holder(**json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None
    # Half written by one who died, or not ours: somebody's, who gives no sign of life
    except (ValueError, TypeError):
        return Holder("", "a host that is not known", 0, "", "a time that is not known")


@contextmanager
def hold(path: str | Path, run: str, term: float | None = None) -> Iterator[None]:
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
        Another run holds it and lives.
    OSError
        The lease cannot be written.
    """
    term = TERM if term is None else term
    place = Path(path) / FILE
    me = Holder(run, socket.gethostname(), os.getpid(), _started(os.getpid()), _now())
    _acquire(place, me, term)
    done = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(place, me, term / _RENEWALS, done), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with contextlib.suppress(OSError):
            found = holder(path)
            if found is not None and found.run == run:
                place.unlink()


def _acquire(place: Path, me: Holder, term: float) -> None:
    while True:
        found = holder(place.parent)
        if found is None:
            # Of two who find nobody, one makes the file
            with contextlib.suppress(FileExistsError):
                _create(place, me)
                return
        elif _is_alive(place, found, term):
            raise StoreError(
                f"{place.parent} is being written by {found}. Wait for its end, or stop it; once "
                f"it is silent for {term:g} s, the same command takes the store over."
            )
        else:
            _bury(place, found)


def _bury(place: Path, dead: Holder) -> None:
    """Take a dead run's lease away; of two who find it, one does."""
    aside = place.with_name(f"{FILE}.{uuid.uuid4().hex}.partial")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return
    moved = _read(aside)
    aside.unlink()
    if moved is not None and moved != dead:
        # The other one had already put its own there
        with contextlib.suppress(FileExistsError):
            _create(place, moved)


def _is_alive(place: Path, found: Holder, term: float) -> bool:
    if found.host == socket.gethostname() and found.pid:
        return _started(found.pid) == found.process_started
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(min(term / _RENEWALS / 2, 1))
        now = holder(place.parent)
        if now is None or now.run != found.run:
            # Released; or taken over, which the next look at it tells
            return False
        if now != found:
            return True
    return False


def _renew(place: Path, me: Holder, pause: float, done: threading.Event) -> None:
    renewals = 0
    while not done.wait(pause):
        renewals += 1
        # A disk that fails for a moment may be back before the term ends
        with contextlib.suppress(OSError):
            found, now = holder(place.parent), replace(me, renewals=renewals)
            if found is None:
                # In the hands of one who took it for a dead run's, and puts it back
                _create(place, now)
            elif found.run == me.run:
                _replace(place, now)
            else:
                return


def _create(place: Path, held: Holder) -> None:
    with place.open("x") as file:
        file.write(json.dumps(asdict(held)))


def _replace(place: Path, held: Holder) -> None:
    made = place.with_name(f"{FILE}.{uuid.uuid4().hex}.partial")
    try:
        made.write_text(json.dumps(asdict(held)))
        made.replace(place)
    finally:
        made.unlink(missing_ok=True)


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
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "running"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

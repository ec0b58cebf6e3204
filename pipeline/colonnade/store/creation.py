"""A new store in its place, in one step: nobody ever sees half of one."""

from __future__ import annotations

import errno
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr

from colonnade.errors import StoreError
from colonnade.events import Listener, ignore
from colonnade.storage import Directory, Objects, Place
from colonnade.store import lease

__all__ = ["MARK", "clear_makings", "destroy", "make", "unfinished"]

ROOT = "zarr.json"
# Where there is no group, but this, all that is below the prefix is what a killed run has left
MARK = "W1/.colonnade"


def make(
    place: Place,
    name: str,
    fill: Callable[[Any], None],
    is_current: Callable[[], bool] | None,
    run: str | None,
    listener: Listener = ignore,
) -> None:
    """Make a group in a place.

    Parameters
    ----------
    name
        Of this making of it; a part of file names.
    fill
        Writes the group into a store of Zarr's.
    is_current
        Whether the store that is to be replaced is there; None where nothing is.
    run
        The run that holds the new store from its first moment on.
    listener
        As for `lease.hold`.

    Raises
    ------
    StoreError
        Another run has just made one.
    OSError
        The place cannot be written to.
    """
    if isinstance(place, Objects):
        _put(place, name, fill, is_current, run, listener)
    elif isinstance(place, Directory):
        _move(place.path, name, fill, is_current, run)


def unfinished(place: Place) -> bool:
    """Whether a place without a group holds what a run has left that was killed in making one."""
    if not isinstance(place, Objects):
        return False
    try:
        place.read(MARK)
    except FileNotFoundError:
        return False
    return True


def _rival(place: Place | Path) -> StoreError:
    return StoreError(f"{place}: another run has just made a store here.")


def _move(
    place: Path,
    name: str,
    fill: Callable[[Any], None],
    is_current: Callable[[], bool] | None,
    run: str | None,
) -> None:
    """Make it beside its place and move it there; delete the old one, moved aside before."""
    making, aside = place.with_name(f".{place.name}.{name}"), None
    try:
        making.parent.mkdir(parents=True, exist_ok=True)
        # Not the path: of a text, zarr takes #, ? and :: for parts of a URL
        fill(Directory(making).zarr())
        if run is not None:
            lease.create(Directory(making), run)
        if is_current is not None:
            if not is_current():
                raise _rival(place)
            aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
            place.rename(aside)
        try:
            making.rename(place)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise _rival(place) from error
            if aside is not None:
                aside.rename(place)
            raise
    finally:
        for directory in (making, aside):
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)


def _put(
    place: Objects,
    name: str,
    fill: Callable[[Any], None],
    is_current: Callable[[], bool] | None,
    run: str | None,
    listener: Listener,
) -> None:
    """Remove the old group's root and then the rest; put the new one's root when all is there."""
    documents: dict[str, Any] = {}
    fill(zarr.storage.MemoryStore(documents))
    place.write(MARK, b"")
    # Of two who make a store, one does
    me = lease.acquire(place, run or name, listener=listener)
    try:
        _replace(place, documents, is_current)
    except BaseException:
        lease.release(place, me.run)
        raise
    if run is None:
        lease.release(place, me.run)


def _replace(
    place: Objects, documents: dict[str, Any], is_current: Callable[[], bool] | None
) -> None:
    if is_current is not None:
        if not is_current():
            raise _rival(place)
        place.remove(ROOT)
    elif place.size(ROOT) is not None:
        raise _rival(place)
    place.clear(keep=(MARK, lease.FILE))
    root = documents.pop(ROOT).to_bytes()
    for key, document in documents.items():
        place.write(key, document.to_bytes())
    try:
        place.create(ROOT, root)
    except FileExistsError:
        raise _rival(place) from None


def destroy(place: Place) -> None:
    """Delete all that is in a place."""
    if isinstance(place, Objects):
        place.remove(ROOT)
        place.clear(keep=())
    elif isinstance(place, Directory):
        shutil.rmtree(place.path)


def clear_makings(place: Place) -> None:
    """Delete what runs that were killed while they made or replaced a store left beside it."""
    if not isinstance(place, Directory):
        return
    name = re.compile(rf"\.{re.escape(place.path.name)}\.[0-9a-f]{{32}}")
    # A folder that may not be listed is no reason to fail
    with suppress(OSError):
        for path in place.path.parent.iterdir():
            if name.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

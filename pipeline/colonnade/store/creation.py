"""Create or replace a store in one step, so that no reader sees an unfinished one."""

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
# With this file but no group, everything below the prefix is the remains of a killed run
MARK = "W1/.colonnade"


def make(
    place: Place,
    name: str,
    fill: Callable[[Any], None],
    is_current: Callable[[], bool] | None,
    run: str | None,
    listener: Listener = ignore,
) -> None:
    """Create a group at a place.

    Parameters
    ----------
    name
        Unique name of this creation; a part of file names.
    fill
        Writes the group into a Zarr store.
    is_current
        Whether the store to replace is still there; None if there is none to replace.
    run
        The run that holds the new store's lease from the start; None for no run.
    listener
        As for `lease.hold`.

    Raises
    ------
    StoreError
        Another run has just created a store there.
    OSError
        The place cannot be written to.
    """
    if isinstance(place, Objects):
        _put(place, name, fill, is_current, run, listener)
    elif isinstance(place, Directory):
        _move(place.path, name, fill, is_current, run)


def unfinished(place: Place) -> bool:
    """Return whether a place without a group holds the remains of a run killed in creating it."""
    if not isinstance(place, Objects):
        return False
    try:
        place.read(MARK)
    except FileNotFoundError:
        return False
    return True


def _rival(place: Place | Path) -> StoreError:
    return StoreError(
        f"{place}: another run has just made a store here. Wait for its end, then run the same "
        "command again."
    )


def _move(
    place: Path,
    name: str,
    fill: Callable[[Any], None],
    is_current: Callable[[], bool] | None,
    run: str | None,
) -> None:
    """Create the group beside its place, move an old one aside, rename the new, delete the old."""
    making, aside = place.with_name(f".{place.name}.{name}"), None
    try:
        making.parent.mkdir(parents=True, exist_ok=True)
        # Not the path as text: zarr would parse #, ? and :: as parts of a URL
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
    """Remove the old group's root, then the rest; write the new group's root last."""
    documents: dict[str, Any] = {}
    fill(zarr.storage.MemoryStore(documents))
    place.write(MARK, b"")
    # Of two runs that create a store here, the lease admits one
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
    """Delete everything at a place."""
    if isinstance(place, Objects):
        place.remove(ROOT)
        place.clear(keep=())
    elif isinstance(place, Directory):
        shutil.rmtree(place.path)


def clear_makings(place: Place) -> None:
    """Delete what runs left beside the store that were killed while creating or replacing it."""
    if not isinstance(place, Directory):
        return
    name = re.compile(rf"\.{re.escape(place.path.name)}\.[0-9a-f]{{32}}")
    # Cleaning up is optional: a folder that cannot be listed is no reason to fail
    with suppress(OSError):
        for path in place.path.parent.iterdir():
            if name.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

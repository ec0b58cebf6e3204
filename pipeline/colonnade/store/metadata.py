"""Open what is at a place, a store, nothing, or something else: its group and its record."""

from __future__ import annotations

from collections.abc import Mapping

import zarr
from pydantic import ValidationError

from colonnade.errors import StoreError, one_line, sanitize
from colonnade.limits import METADATA_BYTES
from colonnade.storage import Directory, Place
from colonnade.store.creation import unfinished
from colonnade.store.record import FORMAT, Record

__all__ = ["KEY", "REMEDY", "check_document", "opened", "why"]

KEY = "colonnade"
REMEDY = "Restore the store from a copy, or delete it and run its job again."


def opened(place: Place) -> tuple[zarr.Group, Record] | None:
    """Open a store's group and read its record; None if nothing is at the place.

    Raises
    ------
    StoreError
        Something else is there, or the record is damaged.
    """
    foreign = f"{place}: this is no store of colonnade"
    try:
        names = place.names()
        if names == set() or (names is not None and _is_unfinished(place, names)):
            return None
    except OSError as error:  # for example a name that is too long, or an unreachable server
        if isinstance(place, Directory):
            raise StoreError(f"{foreign}: {error.strerror}. Check the path.") from None
        raise StoreError(
            f"{place}: this cannot be read: {error}. Check the URL and the connection "
            "(output.path, output.storage_options)."
        ) from error
    if names is None:
        raise StoreError(f"{foreign}, but a file. Choose another path.")
    try:
        check_document(place)
        group = zarr.open_group(place.zarr(), mode="r+", use_consolidated=False)
        attributes = group.attrs.asdict()
    # Damaged metadata can make zarr raise any exception
    except Exception as error:
        raise StoreError(f"{foreign}: {why(error)}. Check the path.") from error
    if KEY not in attributes:
        raise StoreError(
            f"{foreign}: the Zarr group there has no attribute {KEY!r}. Choose another path."
        )
    made = attributes[KEY]
    if isinstance(made, Mapping) and made.get("format") != FORMAT:
        raise StoreError(
            f"{place}: the store has format {sanitize(repr(made.get('format')))}; this version of "
            f"colonnade reads format {FORMAT}. Use the version that made the store, or delete the "
            "store and run its job again."
        )
    try:
        record = Record.model_validate(made)
    except ValidationError as error:
        where = ", ".join(
            sanitize(
                f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}", 200
            )
            for e in error.errors()[:5]
        )
        raise StoreError(
            f"{place}: the store's attribute {KEY!r} is damaged: {where}. {REMEDY}"
        ) from error
    return group, record


def check_document(place: Place, node: str = "") -> None:
    """Raise ValueError if a node's metadata is no regular file, or is too large to read safely."""
    place.check(f"{node}/zarr.json".lstrip("/"), METADATA_BYTES)


def _is_unfinished(place: Place, names: set[str]) -> bool:
    return "zarr.json" not in names and unfinished(place)


def why(error: Exception) -> str:
    """Return the text of an error for the middle of a sentence."""
    return one_line(error).rstrip(".")

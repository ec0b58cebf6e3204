"""Find a store's group at a path, and what it says of itself, or say what else is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import zarr
from pydantic import ValidationError

from colonnade.errors import StoreError, reason, shown
from colonnade.locations import Options, storage_texts
from colonnade.places import Directory, Place, place_at
from colonnade.store.making import unfinished
from colonnade.store.record import FORMAT, Record

__all__ = ["KEY", "REMEDY", "check_document", "find_group", "reasoned"]

KEY = "colonnade"
REMEDY = "Restore it from a copy, or delete it and run its job again."
# Ours take some kilobytes
_MOST_METADATA = 16 * 2**20


def find_group(
    path: str | Path, storage_options: Options = None
) -> tuple[Place, zarr.Group, Record] | None:
    """Find a store's place, its group and its record; None where nothing is at its path.

    Raises
    ------
    StoreError
        Something else is there, or it is damaged.
    """
    place = place_at(path, storage_texts(storage_options))
    foreign = f"{path}: this is no store of colonnade"
    try:
        names = place.names()
        if names == set() or (names is not None and _is_unfinished(place, names)):
            return None
    except OSError as error:  # a name that is too long, say; an object store that is out of reach
        if isinstance(place, Directory):
            raise StoreError(f"{foreign}: {error.strerror}.") from None
        raise StoreError(f"{path}: this cannot be read: {error} (output.path).") from error
    if names is None:
        raise StoreError(f"{foreign}, but a file.")
    try:
        check_document(place)
        group = zarr.open_group(place.zarr(), mode="r+", use_consolidated=False)
        attributes = group.attrs.asdict()
    # zarr raises whatever damaged metadata happens to break
    except Exception as error:
        raise StoreError(f"{foreign}: {reasoned(error)}.") from error
    if KEY not in attributes:
        raise StoreError(f"{foreign}: the Zarr group there has no attribute {KEY!r}.")
    made = attributes[KEY]
    if isinstance(made, Mapping) and made.get("format") != FORMAT:
        raise StoreError(
            f"{path}: the store has format {shown(repr(made.get('format')))}; this version of "
            f"colonnade reads format {FORMAT}."
        )
    try:
        record = Record.model_validate(made)
    except ValidationError as error:
        where = ", ".join(
            shown(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}", 200)
            for e in error.errors()[:5]
        )
        raise StoreError(
            f"{path}: the store's attribute {KEY!r} is damaged: {where}. {REMEDY}"
        ) from error
    return place, group, record


def check_document(place: Place, node: str = "") -> None:
    """Raise ValueError where reading a node's metadata would take for ever, or all memory."""
    place.check(f"{node}/zarr.json".lstrip("/"), _MOST_METADATA)


def reasoned(error: Exception) -> str:
    """Say why, without a full stop."""
    return reason(error).rstrip(".")


def _is_unfinished(place: Place, names: set[str]) -> bool:
    return "zarr.json" not in names and unfinished(place)

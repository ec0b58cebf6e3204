"""Storage locations: local directories and object-store prefixes behind one interface."""

from colonnade.storage.places import (
    Directory,
    Objects,
    Place,
    place_at,
)

__all__ = [
    "Directory",
    "Objects",
    "Place",
    "place_at",
]

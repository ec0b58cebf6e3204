"""Where files are: directories, and prefixes of object stores, behind the same few verbs."""

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

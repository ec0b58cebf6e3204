"""Storage locations: local directories and object-store prefixes behind one interface."""

from colonnade.storage.base import Place
from colonnade.storage.directory import Directory
from colonnade.storage.objects import Objects
from colonnade.storage.places import place_at

__all__ = [
    "Directory",
    "Objects",
    "Place",
    "place_at",
]

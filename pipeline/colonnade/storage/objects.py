"""An object-store prefix, accessed through obstore (extra `cloud`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from colonnade.errors import UsageError, import_optional, one_line, sanitize
from colonnade.storage.base import Place

__all__ = ["Objects"]

_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# obstore retries while a server is busy or a connection drops. Longer outages are left to the
# retries of a block, or to the user, who repeats the command
_RETRIES: Any = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)},
    "retry_timeout": timedelta(seconds=60),
}
_SECONDS = "60s"
# Seconds before our own retries: obstore does not retry a response that breaks off
_PAUSES = (0.1, 0.3, 1.0)
# Options of the HTTP client; all others configure the store
_CLIENT = {"allow_http", "timeout"}

T = TypeVar("T")


class Objects(Place):
    """All keys below a prefix, or a single key.

    Parameters
    ----------
    url
        scheme://bucket/key
    options
        obstore's options, such as endpoint and region; credentials come from the environment.

    Raises
    ------
    UsageError
        obstore is not installed, or rejects the options.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        message = f"{url}: object stores are read and written through obstore"
        import_optional("obstore", "cloud", UsageError, message)
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.scheme, self.bucket, self._prefix = parts.scheme, parts.netloc, parts.path.strip("/")
        self.options = dict(options or {})
        self._store = self._connect(f"{self.scheme}://{self.bucket}")

    def below(self, name: str) -> Objects:
        """Return the location of a file below the prefix."""
        return Objects(f"{self.url}/{name}", self.options)

    def names(self) -> set[str] | None:
        """Return the names directly below the prefix; None if the location is a single key."""
        found = self._do(lambda: self._store.list_with_delimiter(self._prefix))
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        names = {path.removeprefix(self._prefix).strip("/") for path in paths}
        return None if not names and self.size() is not None else names

    def size(self, name: str = "") -> int | None:
        """Return the bytes of a file; None if it is missing."""
        try:
            return int(self._do(lambda: self._store.head(self._key(name)), name)["size"])
        except FileNotFoundError:
            return None

    def stamp(self) -> tuple[str, ...]:
        """Return size, ETag, version and time of this location's object: they change on a write."""
        found = self._do(lambda: self._store.head(self._prefix))
        return tuple(str(found.get(key)) for key in ("size", "e_tag", "version", "last_modified"))

    def check(self, name: str, most: int) -> None:
        """Raise ValueError if a file has more than `most` bytes."""
        size = self.size(name)
        if size is not None and size > most:
            raise ValueError(f"its {name.rpartition('/')[2]} has more than {most:,} bytes")

    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a whole file; FileNotFoundError if it is missing, ValueError above `most` bytes."""

        def get() -> bytes:
            found = self._store.get(self._key(name))
            if most is not None and found.meta["size"] > most:
                raise ValueError(f"it has {found.meta['size']:,} bytes, more than {most:,}")
            return bytes(found.bytes())

        return self._do(get, name)

    def read_ranges(
        self, starts: Sequence[int], ends: Sequence[int], gap: int = 0
    ) -> Sequence[Any]:
        """Read byte ranges of the object at this location concurrently.

        Ranges with at most `gap` bytes between them share one request.
        """
        return self._do(
            lambda: self._store.get_ranges(self._prefix, starts=starts, ends=ends, coalesce=gap)
        )

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically, replacing an existing one."""
        self._do(lambda: self._store.put(self._key(name), data), name)

    def create(self, name: str, data: bytes) -> None:
        """Create a file; FileExistsError if it exists. Of concurrent callers, one succeeds."""
        try:
            self._do(lambda: self._store.put(self._key(name), data, mode="create"), name)
        except FileExistsError:
            # An earlier attempt of ours may have succeeded, and its response been lost
            if self.read(name) != data:
                raise

    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and is no longer renewed; only one caller succeeds."""

        def exchange() -> bool:
            found = self._store.get(self._key(name))
            held = bytes(found.bytes())
            if held != old:
                return held == new
            tag = {k: v for k, v in found.meta.items() if k in ("e_tag", "version") and v}
            self._store.put(self._key(name), new, mode=tag)
            return True

        try:
            return self._do(exchange, name)
        except FileNotFoundError:
            return False
        except FileExistsError:
            return self.read(name) == new

    def renew(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace our own file, which holds `old`; False if its content has changed."""
        return self.take_over(name, old, new)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._do(lambda: self._store.delete(self._key(name)), name)

    def clear(self, keep: Collection[str]) -> None:
        """Remove all files below the prefix except those in `keep`."""
        kept = {self._key(name) for name in keep}
        for metas in self._do(lambda: list(self._store.list(self._prefix))):
            paths = [meta["path"] for meta in metas if meta["path"] not in kept]
            if paths:
                self._do(lambda paths=paths: self._store.delete(paths))  # type: ignore[misc]

    def zarr(self) -> ObjectStore[Any]:
        """Return the Zarr store at this location."""
        return _ZarrObjects(self._connect(self.url))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    def _connect(self, url: str) -> Any:
        client = {"timeout": _SECONDS} | {k: v for k, v in self.options.items() if k in _CLIENT}
        # With explicit options, obstore does not read this variable itself
        client.setdefault("allow_http", os.environ.get("AWS_ALLOW_HTTP", "false"))
        config: Any = {k: v for k, v in self.options.items() if k not in _CLIENT}
        # obstore's name for the endpoint of gs
        if self.scheme == "gs" and "endpoint" in config:
            config["base_url"] = config.pop("endpoint")
        try:
            return import_module("obstore.store").from_url(
                url,
                config=config,
                client_options=client,
                retry_config=_RETRIES,
            )
        except Exception as error:
            raise UsageError(
                f"{url}: this object store cannot be opened; check the URL, storage_options and "
                f"environment: {one_line(error)}"
            ) from error

    def _do(self, action: Callable[[], T], name: str = "") -> T:
        for pause in (*_PAUSES, None):
            try:
                return action()
            except Exception as error:
                translated = _as_os_error(error, f"{self.url}/{name}".rstrip("/"))
                if pause is None or not isinstance(translated, ConnectionResetError):
                    raise translated from error
                time.sleep(pause)
        raise AssertionError


class NoBucketError(OSError):
    """The bucket does not exist, as opposed to a file in it."""


class _ZarrObjects(ObjectStore[Any]):
    """Zarr's ObjectStore that raises OSError, as a local store does."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await _awaited(lambda: ObjectStore.get(self, key, prototype, byte_range), key)

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> Any:
        ranges = list(key_ranges)
        return await _awaited(
            lambda: ObjectStore.get_partial_values(self, prototype, ranges), "chunks"
        )

    async def set(self, key: str, value: Buffer) -> None:
        await _awaited(lambda: ObjectStore.set(self, key, value), key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await _awaited(lambda: ObjectStore.set_if_not_exists(self, key, value), key)

    async def exists(self, key: str) -> bool:
        return await _awaited(lambda: ObjectStore.exists(self, key), key)

    async def delete(self, key: str) -> None:
        await _awaited(lambda: ObjectStore.delete(self, key), key)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        async def listed() -> list[str]:
            return [key async for key in ObjectStore.list_dir(self, prefix)]

        for key in await _awaited(listed, prefix):
            yield key


async def _awaited(work: Callable[[], Coroutine[Any, Any, T]], key: str) -> T:
    for pause in (*_PAUSES, None):
        try:
            return await work()
        except Exception as error:
            translated = _as_os_error(error, key)
            if pause is None or not isinstance(translated, ConnectionResetError):
                raise translated from error
            await asyncio.sleep(pause)
    raise AssertionError


def _as_os_error(error: Exception, place: str) -> Exception:
    """Convert an error of obstore to OSError; return any other error unchanged."""
    name = type(error).__name__
    if not type(error).__module__.startswith("obstore") and not (
        isinstance(error, OSError) and error.errno is None
    ):
        return error
    # Drop obstore's debug output, which may contain signed requests
    text = str(error).partition("\n\nDebug source")[0]
    answer = " ".join(_element(text, part) for part in ("Code", "Message")).strip()
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return NoBucketError(
            errno.ENOENT, "there is no such bucket; create it, or correct its name", place
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", place)
    if name in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(errno.EEXIST, "the object exists already", place)
    status = re.search(r"status code: (\d+)([A-Za-z ]*)", text)
    number = status[1] if status else ""
    if number in ("401", "403") or "169.254.169.254" in text:
        why = f" ({answer})" if answer else "" if number else " (no credentials were found)"
        return PermissionError(errno.EACCES, f"access is denied{why}; {_remedy(place)}", place)
    if "builder error" in text:
        return PermissionError(
            errno.EPERM, "http:// requires storage_options.allow_http: true", place
        )
    # obstore's message mentions retries if it has already retried
    if "HTTP error" in text and "retries" not in text and not number:
        return ConnectionResetError(errno.ECONNRESET, "the connection was cut", place)
    if status:
        return OSError(
            errno.EIO, f"the server answers {number}{status[2]} {answer}".rstrip(), place
        )
    if "HTTP error" in text:
        asked = re.search(r"https?://[^/ ]+", text)
        return OSError(errno.EIO, f"no answer from {asked[0] if asked else 'the server'}", place)
    return OSError(errno.EIO, sanitize(" ".join(text.split()), 300), place)


def _remedy(place: str) -> str:
    known = _VARIABLES.get(place.partition("://")[0])
    names = known or "; ".join(f"{scheme}: {names}" for scheme, names in _VARIABLES.items())
    return f"set the credentials in the environment, also on the workers ({names})"


def _element(text: str, part: str) -> str:
    found = re.search(rf"<{part}>(.*?)</{part}>", text, re.DOTALL)
    return sanitize(found[1].strip(), 200) if found else ""

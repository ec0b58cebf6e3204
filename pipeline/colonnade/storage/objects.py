"""A prefix of an object store, through obstore, which comes with the extra `cloud`."""

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
# A server that is busy, a connection that is cut: mended here within seconds. What lasts longer is
# the business of those who retry a block, or of the one who gives the same command again
_RETRIES: Any = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)},
    "retry_timeout": timedelta(seconds=60),
}
_SECONDS = "60s"
# Before further attempts, where obstore makes none: at an answer that breaks off
_PAUSES = (0.1, 0.3, 1.0)
# Of the options, those that speak of the connection and not of the store
_CLIENT = {"allow_http", "timeout"}

T = TypeVar("T")


class Objects(Place):
    """All keys below a prefix, or a single key.

    Parameters
    ----------
    url
        scheme://bucket/key
    options
        obstore's, such as endpoint and region; credentials are the environment's.

    Raises
    ------
    UsageError
        obstore is not installed, or does not take the options.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        told = f"{url}: object stores are read and written through obstore"
        import_optional("obstore", "cloud", UsageError, told)
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.scheme, self.bucket, self._prefix = parts.scheme, parts.netloc, parts.path.strip("/")
        self.options = dict(options or {})
        self._store = self._connect(f"{self.scheme}://{self.bucket}")

    def below(self, name: str) -> Objects:
        """Find the place of a file below the prefix."""
        return Objects(f"{self.url}/{name}", self.options)

    def names(self) -> set[str] | None:
        """Names directly below the prefix; None where it is a key and no prefix."""
        found = self._do(lambda: self._store.list_with_delimiter(self._prefix))
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        names = {path.removeprefix(self._prefix).strip("/") for path in paths}
        return None if not names and self.size() is not None else names

    def size(self, name: str = "") -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._do(lambda: self._store.head(self._key(name)), name)["size"])
        except FileNotFoundError:
            return None

    def stamp(self) -> tuple[str, ...]:
        """Tell by what it is noticed that the file at the place itself was written anew."""
        found = self._do(lambda: self._store.head(self._prefix))
        return tuple(str(found.get(key)) for key in ("size", "e_tag", "version", "last_modified"))

    def check(self, name: str, most: int) -> None:
        """Raise ValueError where a file has more than `most` bytes."""
        size = self.size(name)
        if size is not None and size > most:
            raise ValueError(f"its {name.rpartition('/')[2]} has more than {most:,} bytes")

    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a file whole; FileNotFoundError where there is none, ValueError above `most`."""

        def get() -> bytes:
            found = self._store.get(self._key(name))
            if most is not None and found.meta["size"] > most:
                raise ValueError(f"it has {found.meta['size']:,} bytes, more than {most:,}")
            return bytes(found.bytes())

        return self._do(get, name)

    def read_ranges(
        self, starts: Sequence[int], ends: Sequence[int], gap: int = 0
    ) -> Sequence[Any]:
        """Read ranges of the bytes of the file at the place itself, many at a time.

        Two are one request where no more than `gap` bytes lie between them.
        """
        return self._do(
            lambda: self._store.get_ranges(self._prefix, starts=starts, ends=ends, coalesce=gap)
        )

    def write(self, name: str, data: bytes) -> None:
        """Put a file there in one step, in place of what was there."""
        self._do(lambda: self._store.put(self._key(name), data), name)

    def create(self, name: str, data: bytes) -> None:
        """Put a file there if there is none; FileExistsError where there is: of many, one can."""
        try:
            self._do(lambda: self._store.put(self._key(name), data, mode="create"), name)
        except FileExistsError:
            # Perhaps it is our own, and the answer that told so was lost
            if self.read(name) != data:
                raise

    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and that nobody renews; of many who try, one can."""

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
        """Replace a file that holds `old`, put there by oneself; False where another has it."""
        return self.take_over(name, old, new)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._do(lambda: self._store.delete(self._key(name)), name)

    def clear(self, keep: Collection[str]) -> None:
        """Remove all that is below the prefix, but for some files."""
        kept = {self._key(name) for name in keep}
        for metas in self._do(lambda: list(self._store.list(self._prefix))):
            paths = [meta["path"] for meta in metas if meta["path"] not in kept]
            if paths:
                self._do(lambda paths=paths: self._store.delete(paths))  # type: ignore[misc]

    def zarr(self) -> ObjectStore[Any]:
        """Tell Zarr where this is."""
        return _ZarrObjects(self._connect(self.url))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    def _connect(self, url: str) -> Any:
        client = {"timeout": _SECONDS} | {k: v for k, v in self.options.items() if k in _CLIENT}
        # Options that are given keep obstore from looking for this one itself
        client.setdefault("allow_http", os.environ.get("AWS_ALLOW_HTTP", "false"))
        config: Any = {k: v for k, v in self.options.items() if k not in _CLIENT}
        # obstore's own name for it
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
                f"{url}: this object store cannot be used: {one_line(error)}"
            ) from error

    def _do(self, action: Callable[[], T], name: str = "") -> T:
        for pause in (*_PAUSES, None):
            try:
                return action()
            except Exception as error:
                told = _as_os_error(error, f"{self.url}/{name}".rstrip("/"))
                if pause is None or not isinstance(told, ConnectionResetError):
                    raise told from error
                time.sleep(pause)
        raise AssertionError


class NoBucketError(OSError):
    """There is no such bucket: no file is missing, but the place for all of them."""


class _ZarrObjects(ObjectStore[Any]):
    """Zarr's store of objects, which fails as a disk does: with OSError."""

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
            told = _as_os_error(error, key)
            if pause is None or not isinstance(told, ConnectionResetError):
                raise told from error
            await asyncio.sleep(pause)
    raise AssertionError


def _as_os_error(error: Exception, place: str) -> Exception:
    """Say in OSError's words what obstore has raised; what comes from elsewhere stays as it is."""
    name = type(error).__name__
    if not type(error).__module__.startswith("obstore") and not (
        isinstance(error, OSError) and error.errno is None
    ):
        return error
    # The rest, meant for those who mend obstore, may repeat what was signed
    text = str(error).partition("\n\nDebug source")[0]
    told = " ".join(_told(text, part) for part in ("Code", "Message")).strip()
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return NoBucketError(errno.ENOENT, "there is no such bucket", place)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", place)
    if name in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(errno.EEXIST, "the object is there", place)
    status = re.search(r"status code: (\d+)([A-Za-z ]*)", text)
    number = status[1] if status else ""
    if number in ("401", "403") or "169.254.169.254" in text:
        why = f" ({told})" if told else "" if number else " (no credentials were found)"
        return PermissionError(errno.EACCES, f"access is denied{why}; {_remedy(place)}", place)
    if "builder error" in text:
        return PermissionError(
            errno.EPERM, "http:// is used only with storage_options.allow_http: true", place
        )
    # What obstore has tried again tells how often
    if "HTTP error" in text and "retries" not in text and not number:
        return ConnectionResetError(errno.ECONNRESET, "the connection was cut", place)
    if status:
        return OSError(errno.EIO, f"the server answers {number}{status[2]} {told}".rstrip(), place)
    if "HTTP error" in text:
        asked = re.search(r"https?://[^/ ]+", text)
        return OSError(errno.EIO, f"no answer from {asked[0] if asked else 'the server'}", place)
    return OSError(errno.EIO, sanitize(" ".join(text.split()), 300), place)


def _remedy(place: str) -> str:
    known = _VARIABLES.get(place.partition("://")[0])
    names = known or "; ".join(f"{scheme}: {names}" for scheme, names in _VARIABLES.items())
    return f"set the credentials in the environment, on workers too ({names})"


def _told(text: str, part: str) -> str:
    found = re.search(rf"<{part}>(.*?)</{part}>", text, re.DOTALL)
    return sanitize(found[1].strip(), 200) if found else ""

"""Locations of a job's files: a path, or an object-store URL with its options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from colonnade.errors import UsageError, sanitize
from colonnade.storage.urls import SCHEMES, URL, is_url

__all__ = [
    "SECRET",
    "SERVERS",
    "FilePath",
    "Settings",
    "StorageOptions",
    "absolute",
    "file_path",
    "readers_options",
    "storage_texts",
]

SECRET = "secret"  # noqa: S105 (a name)
"""pydantic error type of a value that may be a secret: messages do not repeat the value."""

# Control characters, which error messages would send to a terminal, and lone surrogates
_NO_PATH = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_SECRETS = re.compile(
    "key|secret|token|password|passwd|credential|signature|bearer|sas|account", re.IGNORECASE
)
_REMEDY = (
    "secrets do not belong in a job, since stores and logs repeat it; set them in the environment, "
    "also that of the workers, as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN "
    "(s3), GOOGLE_APPLICATION_CREDENTIALS (gs), or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY (az)"
)


# Environment variables that name the object store's server
SERVERS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


class Settings(BaseModel):
    """A section of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def file_path(given: Any) -> str:
    """Return a valid path or object-store URL as text; raise ValueError for anything else."""
    path = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(path, str) or not path.strip() or _NO_PATH.search(path):
        raise ValueError("allowed: a path")
    if "://" not in path:
        return path
    if "@" in urlsplit(path).netloc or "?" in path:
        raise PydanticCustomError(
            SECRET, "{why}", {"why": f"the URL holds a user or a query; {_REMEDY}"}
        )
    if not is_url(path):
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(
            f"allowed: a path, or {allowed} with a bucket and a key without %, ? and #"
        )
    return path.rstrip("/")


FilePath = Annotated[
    str,
    PlainValidator(file_path),
    WithJsonSchema({"type": "string", "anyOf": [{"pattern": URL}, {"pattern": r"^(?!.*://).*\S"}]}),
]


class StorageOptions(Settings):
    """Connection options of an object store; credentials come only from the environment."""

    endpoint: str | None = None
    """URL of the server; default: the cloud provider's own."""
    region: str | None = None
    """Region of the bucket."""
    allow_http: bool | None = None
    """Whether the endpoint may use http://, which is not encrypted."""
    virtual_hosted_style_request: bool | None = None
    """Whether the bucket is part of the host name instead of the path."""
    skip_signature: bool | None = None
    """Whether to send requests without credentials, as public buckets allow."""
    timeout: str | None = None
    """Timeout of one request, such as 60s."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            found = [
                str(key)
                for key in given
                if key not in cls.model_fields and _SECRETS.search(str(key))
            ]
            if found:
                raise PydanticCustomError(
                    SECRET, "{why}", {"why": f"{', '.join(found)}: {_REMEDY}"}
                )
        return given

    @field_validator("endpoint")
    @classmethod
    def _plain(cls, given: str | None) -> str | None:
        if given is None:
            return given
        parts = urlsplit(given)
        if "@" in parts.netloc or parts.query:
            raise PydanticCustomError(
                SECRET, "{why}", {"why": f"the URL holds a user or a query; {_REMEDY}"}
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("allowed: http:// or https:// followed by a host")
        return given

    @field_validator("timeout")
    @classmethod
    def _time(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(r"[1-9][0-9]{0,4}(s|m)", given):
            raise ValueError("allowed: seconds or minutes, such as 60s or 2m")
        return given

    @model_validator(mode="after")
    def _readable(self) -> StorageOptions:
        if self.endpoint is not None and self.endpoint.startswith("http:") and not self.allow_http:
            raise ValueError("an endpoint with http:// requires allow_http: true")
        return self


Options = StorageOptions | Mapping[str, Any] | None
"""Options of an object store, from a job or from a caller."""


def storage_texts(given: Options) -> dict[str, str]:
    """Return options as texts; validate a caller's options like those of a job.

    Raises
    ------
    UsageError
        An option is unknown, not allowed, or a secret.
    """
    try:
        options = StorageOptions.model_validate(given or {})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))} {problem['msg']}".strip()
            for problem in error.errors(include_url=False, include_input=False)
        )
        known = ", ".join(StorageOptions.model_fields)
        raise UsageError(f"storage_options: {problems}; known: {known}.") from None
    texts = options.model_dump(exclude_none=True)
    return {k: str(v).lower() if isinstance(v, bool) else v for k, v in texts.items()}


def readers_options(path: str, store: str, given: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the options with which a reader may open a location that a store's job names.

    The job may be somebody else's. Its options could send the reader's credentials to a server of
    the job's choice, and a request to a bucket of its choice reveals the reader to the bucket's
    owner. A reader therefore opens only locations in the store's own bucket, or on a server that
    the reader names.

    Parameters
    ----------
    path
        The location that the job names.
    store
        The store's location, as the reader gives it.
    given
        The reader's options.

    Returns
    -------
    None if the reader must not open the location. A path of this machine needs no options.
    """
    if not is_url(path):
        return {}
    asked = urlsplit(path)
    beside = urlsplit(store) if is_url(store) else None
    # If the schemes differ, the reader's options are for the store alone
    options = given if beside is None or beside.scheme == asked.scheme else {}
    named = "endpoint" in options or any(os.environ.get(name) for name in SERVERS[asked.scheme])
    same = beside is not None and beside[:2] == asked[:2]
    return options if named or same else None


def absolute(path: str) -> str:
    """Make a path absolute, for processes in other directories; return a URL unchanged.

    Raises
    ------
    UsageError
        The current directory or the home directory has a name that a job cannot hold.
    """
    if is_url(path):
        return path
    # Unlike Path.expanduser, os.path.expanduser keeps the ~ of an unknown user
    found = str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111
    if _NO_PATH.search(found):
        raise UsageError(
            f"{sanitize(path)} is {sanitize(found, 300)}: this path contains control characters "
            "or bytes that are not UTF-8, which a job and a store cannot hold. Rename the "
            "directory, or give paths outside it."
        )
    return found

"""Where a job's files are: a path, or a URL of an object store with its options."""

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
"""Type of the problem of what may be a secret: what was given is not told."""

# Control characters, which an error message would send to a terminal, and halves of others
_NO_PATH = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_SECRETS = re.compile(
    "key|secret|token|password|passwd|credential|signature|bearer|sas|account", re.IGNORECASE
)
_REMEDY = (
    "secrets do not belong into a job, which stores and logs repeat; set them in the environment, "
    "of workers too, as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN "
    "(s3), GOOGLE_APPLICATION_CREDENTIALS (gs), or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY (az)"
)


# Variables of the environment that name the server that is asked
SERVERS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


class Settings(BaseModel):
    """A section of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def file_path(given: Any) -> str:
    """Take a path or a URL of an object store; ValueError where it is neither."""
    path = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(path, str) or not path.strip() or _NO_PATH.search(path):
        raise ValueError("allowed: a path")
    if "://" not in path:
        return path
    if "@" in urlsplit(path).netloc or "?" in path:
        raise PydanticCustomError(
            SECRET, "{why}", {"why": f"a URL with more than a place; {_REMEDY}"}
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
    """How an object store is reached; credentials are the environment's alone."""

    endpoint: str | None = None
    """URL of the server, where it is not the cloud's own."""
    region: str | None = None
    """Region of the bucket."""
    allow_http: bool | None = None
    """Whether the endpoint may be http://, which anyone in between can read."""
    virtual_hosted_style_request: bool | None = None
    """Whether the bucket is a part of the host's name rather than of the path."""
    skip_signature: bool | None = None
    """Whether to ask without credentials, as public buckets allow."""
    timeout: str | None = None
    """Longest time of one request, such as 60s."""

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
            raise PydanticCustomError(SECRET, "{why}", {"why": f"more than an address; {_REMEDY}"})
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("allowed: http:// or https:// and a host")
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
            raise ValueError("an endpoint with http:// asks for allow_http: true")
        return self


Options = StorageOptions | Mapping[str, Any] | None
"""Options of an object store, as a job has them or as a caller gives them."""


def storage_texts(given: Options) -> dict[str, str]:
    """Write options as texts; check them as those of a job are, where a caller gives them.

    Raises
    ------
    UsageError
        One is not known, not allowed, or a secret.
    """
    try:
        options = StorageOptions.model_validate(given or {})
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc']))} {problem['msg']}".strip()
            for problem in error.errors(include_url=False, include_input=False)
        )
        known = ", ".join(StorageOptions.model_fields)
        raise UsageError(f"storage_options: {told}; known: {known}.") from None
    texts = options.model_dump(exclude_none=True)
    return {k: str(v).lower() if isinstance(v, bool) else v for k, v in texts.items()}


def readers_options(path: str, store: str, given: Mapping[str, str]) -> Mapping[str, str] | None:
    """Options with which a reader reaches what the job of a store names, which may be another's.

    The job's own options would send the reader's credentials to a server of the job's choice, and a
    request for a bucket of its choice tells the bucket's owner who asks. Therefore a reader asks
    for what lies in the store's own bucket, or on a server that the reader names.

    Parameters
    ----------
    path
        What the job names.
    store
        Where the store is, as the reader says.
    given
        The reader's options.

    Returns
    -------
    None where the reader does not ask at all. A path of this machine needs no options.
    """
    if not is_url(path):
        return {}
    asked = urlsplit(path)
    beside = urlsplit(store) if is_url(store) else None
    # Options of another kind of object store are for the store alone
    options = given if beside is None or beside.scheme == asked.scheme else {}
    named = "endpoint" in options or any(os.environ.get(name) for name in SERVERS[asked.scheme])
    same = beside is not None and beside[:2] == asked[:2]
    return options if named or same else None


def absolute(path: str) -> str:
    """Make a path absolute, for processes in other directories; a URL is.

    Raises
    ------
    UsageError
        The current directory, or the home that ~ stands for, has a name that no job can hold.
    """
    if is_url(path):
        return path
    # unlike Path.expanduser, this leaves the ~ of an unknown user alone
    found = str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111
    if _NO_PATH.search(found):
        raise UsageError(
            f"{sanitize(path)} is {sanitize(found, 300)}: this directory's name has control characters, "
            "or bytes that are no UTF-8, which no job and no store can hold. Rename the "
            "directory, or give paths outside of it."
        )
    return found

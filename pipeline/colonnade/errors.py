"""Exceptions, grouped by how a caller would handle them.

ColonnadeError
├── UsageError           2        fix the job, its files or the command line; nothing was changed
│   ├── JobError                  the job file; lists every problem
│   ├── NetworkError              the weights
│   ├── InputError                the matrix X, or its shape against the network's
│   ├── TooLargeError             the plan does not fit a worker's memory, or a store
│   ├── StoreError                not a store of colonnade, or another job's
│   └── ClusterError              the cluster cannot be started or reached
├── EndedError           its own  a queued job failed
├── IncompleteError      3        run again: blocks are missing; with --repair: damaged
└── StoppedError         128 + n  run again: signal n ended the run; 129, 130 or 143

The numbers are the exit statuses of the command line.
"""

from __future__ import annotations

import re
import signal
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ClusterError",
    "ColonnadeError",
    "EndedError",
    "IncompleteError",
    "InputError",
    "JobError",
    "NetworkError",
    "StoppedError",
    "StoreError",
    "TooLargeError",
    "UsageError",
    "has_credentials",
    "import_optional",
    "listed",
    "one_line",
    "sanitize",
    "visible",
]


_CREDENTIALS = re.compile(r"://[^/?#]*@")


class ColonnadeError(Exception):
    """Base class of all errors that colonnade raises on purpose.

    The text is safe to print, even if it quotes an untrusted file.
    """

    exit_status = 1

    def __str__(self) -> str:
        return "\n".join(map(visible, super().__str__().split("\n")))


class UsageError(ColonnadeError):
    """The job, its files or the command line are wrong; nothing was changed."""

    exit_status = 2


class JobError(UsageError):
    """The job file is wrong; the text lists every problem found."""


class NetworkError(UsageError):
    """The weights cannot be read as a network."""


class InputError(UsageError):
    """X cannot be read, or its shape does not match the network."""


class TooLargeError(UsageError):
    """A block does not fit into a worker's memory, or the blocks into a store."""


class StoreError(UsageError):
    """The path holds something other than a store of this job."""


class ClusterError(UsageError):
    """The cluster cannot be started or reached."""


class IncompleteError(ColonnadeError):
    """Blocks are missing, and the same command computes them; or stored blocks are damaged.

    Attributes
    ----------
    failures
        Cause by block number.
    """

    exit_status = 3

    def __init__(self, message: str, failures: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})


class EndedError(ColonnadeError):
    """A queued job failed; the exit status is that of its run."""

    def __init__(self, exit_status: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class StoppedError(ColonnadeError):
    """A signal ended the run; the same command resumes it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}: {message}")
        self.exit_status = 128 + signum


def import_optional(module: str, extra: str, kind: type[UsageError], message: str) -> Any:
    """Import a module of an extra; if it is missing, raise an error with the install command.

    Parameters
    ----------
    kind
        Type of the error.
    message
        Purpose of the module, as a phrase that ends with its name.
    """
    try:
        return import_module(module)
    # The module, or a dependency of it, is not installed
    except ImportError as error:
        raise kind(
            f"{message}, which cannot be imported ({one_line(error).rstrip('.')}): pip install "
            f"'colonnade[{extra}]'."
        ) from error


def has_credentials(url: str) -> bool:
    """Return whether a URL contains a user name or password: scheme://user:password@host."""
    return bool(_CREDENTIALS.search(url))


def sanitize(text: str, most: int = 80) -> str:
    """Return an untrusted text as one line of at most `most` characters.

    Control characters are escaped, and credentials in URLs are removed.
    """
    text = _CREDENTIALS.sub("://…@", text)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def visible(text: str, most: int = 5000) -> str:
    """Escape characters that control a terminal or disguise text; return one line.

    These are control characters, bidirectional formatting characters and line separators.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(texts: Iterable[str]) -> str:
    """Join the first 12 texts, since a file may contain any number of them."""
    shown = [sanitize(text) for text in islice(texts, 13)]
    return ", ".join(shown if len(shown) < 13 else [*shown[:12], "…"])


def one_line(error: BaseException) -> str:
    """Return an error's message as one sanitized line, since it may quote a damaged file."""
    return sanitize(" ".join(str(error).split()) or type(error).__name__, 300)

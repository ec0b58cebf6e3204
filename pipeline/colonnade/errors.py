"""What can go wrong, grouped by what the one who catches it would do.

ColonnadeError
├── UsageError           2        mend the job, its files or the command line; nothing was changed
│   ├── JobError                  the job file: every problem at once
│   ├── NetworkError              the weights
│   ├── InputError                the matrix X, or its shape against the network's
│   ├── TooLargeError             the plan does not fit a worker's memory, or a store
│   ├── StoreError                not a store of ours, or another job's
│   └── ClusterError              the cluster cannot be had
├── EndedError           its own  a job in a queue ended otherwise than well
├── IncompleteError      3        run again (with --repair): blocks are missing (damaged)
└── StoppedError         128 + n  run again: signal n ended the run; 129, 130 or 143

The figures are the exit statuses of the command line.
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
    """Root of every error that colonnade raises on purpose.

    Its text is safe to print, whatever a file has put into it.
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
    """X cannot be read, or its shape does not suit the network."""


class TooLargeError(UsageError):
    """A block does not fit into a worker's memory, or the blocks into a store."""


class StoreError(UsageError):
    """The path holds something else than a store of this job."""


class ClusterError(UsageError):
    """The cluster cannot be started or reached."""


class IncompleteError(ColonnadeError):
    """Blocks are missing, and the same command computes them; or what is there is damaged.

    Attributes
    ----------
    failures
        block number -> cause
    """

    exit_status = 3

    def __init__(self, message: str, failures: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})


class EndedError(ColonnadeError):
    """A job in a queue has ended otherwise than well; the exit status is that of its run."""

    def __init__(self, exit_status: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class StoppedError(ColonnadeError):
    """A signal ended the run; the same command goes on where it stopped."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}: {message}")
        self.exit_status = 128 + signum


def import_optional(module: str, extra: str, kind: type[UsageError], told: str) -> Any:
    """Import a module that an extra brings; where it is not there, say how it is had.

    Parameters
    ----------
    kind
        Of the error.
    told
        What the module is needed for, in words that end with its name.
    """
    try:
        return import_module(module)
    # Not installed, or a library of its own is not
    except ImportError as error:
        raise kind(
            f"{told}, which cannot be imported ({one_line(error).rstrip('.')}): pip install "
            f"'colonnade[{extra}]'."
        ) from error


def has_credentials(url: str) -> bool:
    """Whether a URL carries a user's name or password, as in scheme://user:password@host."""
    return bool(_CREDENTIALS.search(url))


def sanitize(text: str, most: int = 80) -> str:
    """Fit a text that a file may have given us into a line, without control characters.

    And without passwords in URLs.
    """
    text = _CREDENTIALS.sub("://…@", text)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def visible(text: str, most: int = 5000) -> str:
    """Escape what a terminal would obey and what hides or turns text round; make it one line.

    Control characters, those of bidirectional text, and separators of lines.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(texts: Iterable[str]) -> str:
    """Tell the first of some texts: a file may give us any number of them."""
    told = [sanitize(text) for text in islice(texts, 13)]
    return ", ".join(told if len(told) < 13 else [*told[:12], "…"])


def one_line(error: BaseException) -> str:
    """Tell in a line what an error says, whatever a damaged file has put into it."""
    return sanitize(" ".join(str(error).split()) or type(error).__name__, 300)

"""Types of the values in a job file: bytes, counts, times, addresses, lines of text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dask.utils import parse_bytes
from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from colonnade.errors import has_credentials
from colonnade.limits import JOB_COUNT, JOB_SIZE_BYTES, JOB_SIZE_CHARACTERS, JOB_WALLTIME_SECONDS
from colonnade.storage.locations import SECRET

__all__ = [
    "Address",
    "Bytes",
    "Count",
    "Environment",
    "Host",
    "Line",
    "Options",
    "Patience",
    "Port",
    "Seconds",
    "Size",
    "Url",
    "Walltime",
    "Whole",
    "number",
]


def number(given: Any) -> float:
    """Return a number, also from text, which ${VAR} and YAML's 1e-3 are; NaN for anything else."""
    try:
        usable = isinstance(given, int | float | str) and not isinstance(given, bool)
        return float(given) if usable else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _size(given: Any) -> int | Literal["auto"]:
    """Return bytes from 1048576 or '64 MiB', or 'auto' unchanged."""
    if given == "auto":
        return "auto"
    # Check the length first: on long runs of spaces, the pattern takes quadratic time
    text = (
        isinstance(given, str) and len(given) <= JOB_SIZE_CHARACTERS and re.fullmatch(_SIZE, given)
    )
    size = parse_bytes(given) if text else given
    if isinstance(size, bool | str) or not isinstance(size, int | float):
        raise ValueError("allowed: auto, or bytes such as 67108864 or '64 MiB'")
    if not 1 <= size < JOB_SIZE_BYTES:
        raise ValueError("allowed: auto, or from one byte to 8 EiB")
    return int(size)


def _bytes(given: Any) -> int:
    try:
        found = _size(given)
    except ValueError as error:
        raise ValueError(str(error).replace("auto, or ", "", 1)) from None
    if found == "auto":
        raise ValueError("allowed: bytes such as 67108864 or '64 MiB'")
    return found


def _whole(given: Any) -> int:
    found = number(given)
    if not 1 <= found <= JOB_COUNT or found != int(found):
        raise ValueError(f"allowed: a whole number from 1 to {JOB_COUNT}")
    return int(found)


def _count(given: Any) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return _whole(given)
    except ValueError as error:
        raise ValueError(str(error).replace(":", ": auto, or", 1)) from None


def _seconds(given: Any) -> float:
    if not 0 < number(given) < math.inf:
        raise ValueError("allowed: a number of seconds above 0")
    return number(given)


def _patience(given: Any) -> float | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return _seconds(given)
    except ValueError as error:
        raise ValueError(str(error).replace(":", ": auto, or", 1)) from None


def _walltime(given: Any) -> int:
    # YAML reads 12:00:00 without quotation marks as 43200, the same number of seconds
    match = re.match(_WALLTIME, given) if isinstance(given, str) else None
    if match is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        given = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    found = number(given)
    if not 60 <= found < JOB_WALLTIME_SECONDS or found != int(found):
        raise ValueError("allowed: [days-]HH:MM:SS or seconds, a minute or more")
    return int(found)


def _port(given: Any) -> int:
    found = number(given)
    if not 1 <= found < 2**16 or found != int(found):
        raise ValueError("allowed: a port, from 1 to 65535")
    return int(found)


def _plain(text: str) -> str:
    """Refuse a text that may contain a secret."""
    if has_credentials(text) or _SECRET.search(text):
        why = "this may hold a secret, and stores and logs repeat the job"
        raise PydanticCustomError(SECRET, "{why}", {"why": f"{why}; {_ELSEWHERE}"})
    return text


def _line(given: Any) -> str:
    if not isinstance(given, str) or not given.strip() or not given.isprintable():
        raise ValueError("allowed: a line of text")
    return _plain(given)


def _host(given: Any) -> str:
    if not isinstance(given, str) or not re.match(_HOST, given):
        raise ValueError("allowed: a host's name or address, without user and port")
    return given


def _url(given: Any) -> str:
    if not isinstance(given, str) or not re.match(_URL, given) or not urlsplit(given).netloc:
        raise ValueError("allowed: an address such as https://dask.example.org")
    return _plain(given)


def _environment(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str)
        and re.match(_VARIABLE, name)
        and isinstance(value, str | int | float)
        and not isinstance(value, bool)
        for name, value in given.items()
    ):
        raise ValueError("allowed: names of variables, each with a text or a number")
    for name, value in given.items():
        _plain(f"{name}={value}")
    return {name: str(value) for name, value in given.items()}


def _options(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(value, str | int | float)
        for name, value in given.items()
    ):
        raise ValueError("allowed: names, each with a text or a number")
    for name, value in given.items():
        _plain(f"{name}={value}")
    return dict(given)


def _address(given: Any) -> str:
    if not isinstance(given, str) or not re.match(_ADDRESS, given):
        raise ValueError("allowed: a scheduler's address such as tcp://10.0.0.1:8786")
    if has_credentials(given):
        raise ValueError(_NO_CREDENTIALS)
    return given


# The store keeps the job, so every reader of the store can read it
_NO_CREDENTIALS = "allowed: no user or password in an address; set them in the environment"
_SECRET = re.compile(
    r"(secret|token|passw|credential|(api|access|account|private)_?key)\w*\s*[=:]", re.IGNORECASE
)
_ELSEWHERE = (
    "provide secrets in the workers' environment: by a file that only you can read and that the "
    "prologue sources, the machine's role, or a Kubernetes secret"
)
# Patterns that the validators share with the JSON Schema
_SIZE = r"\s*[0-9]+(\.[0-9]*)?([eE][0-9]{1,2})?\s*([kKmMgGtTpP][iI]?)?[bB]?\s*"
_ADDRESS = r"^(tcp|tls|ws|wss|ucx)://.+"
_WALLTIME = r"^(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])$"
_HOST = r"^[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,252}$"
_URL = r"^https?://[^\s]+$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_WHOLE_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": JOB_COUNT}

Size = Annotated[
    int | Literal["auto"],
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "exclusiveMaximum": JOB_SIZE_BYTES},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
Whole = Annotated[int, PlainValidator(_whole), WithJsonSchema(_WHOLE_SCHEMA)]
Count = Annotated[
    int | Literal["auto"],
    PlainValidator(_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _WHOLE_SCHEMA]}),
]
_SECONDS_SCHEMA: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
Seconds = Annotated[float, PlainValidator(_seconds), WithJsonSchema(_SECONDS_SCHEMA)]
Patience = Annotated[
    float | Literal["auto"],
    PlainValidator(_patience),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _SECONDS_SCHEMA]}),
]
_AddressSchema = WithJsonSchema({"type": "string", "pattern": _ADDRESS})
Address = Annotated[str, PlainValidator(_address), _AddressSchema]
Bytes = Annotated[
    int,
    PlainValidator(_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "exclusiveMaximum": JOB_SIZE_BYTES},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
Walltime = Annotated[
    int,
    PlainValidator(_walltime),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 60, "exclusiveMaximum": JOB_WALLTIME_SECONDS},
                {"type": "string", "pattern": _WALLTIME},
            ]
        }
    ),
]
Port = Annotated[
    int,
    PlainValidator(_port),
    WithJsonSchema({"type": "integer", "minimum": 1, "exclusiveMaximum": 2**16}),
]
Line = Annotated[
    str, PlainValidator(_line), WithJsonSchema({"type": "string", "pattern": r"^.*\S.*$"})
]
Host = Annotated[str, PlainValidator(_host), WithJsonSchema({"type": "string", "pattern": _HOST})]
Url = Annotated[str, PlainValidator(_url), WithJsonSchema({"type": "string", "pattern": _URL})]
_SCALARS = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
_OPTIONS = {"type": "object", "additionalProperties": {"anyOf": _SCALARS}}
_TEXTS = {"type": "object", "additionalProperties": {"anyOf": _SCALARS[:2]}}
Environment = Annotated[dict[str, str], PlainValidator(_environment), WithJsonSchema(_TEXTS)]
Options = Annotated[dict[str, Any], PlainValidator(_options), WithJsonSchema(_OPTIONS)]

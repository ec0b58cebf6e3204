"""Read a job file: YAML, overrides and ${VAR}; report all problems at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from colonnade.errors import JobError, one_line, sanitize
from colonnade.formatting import counted
from colonnade.job import pathfields
from colonnade.job.job import Job
from colonnade.limits import JOB_BYTES, JOB_PROBLEMS, JOB_VALUES
from colonnade.storage import locations
from colonnade.storage.regularfiles import read_regular

__all__ = ["JobLike", "load_job", "unexpanded"]

JobLike = str | Path | Mapping[str, Any] | Job


def load_job(source: JobLike, overrides: Iterable[str] = ()) -> Job:
    """Read and validate a job.

    Parameters
    ----------
    source
        The path of a YAML file, a mapping of the same form, or a `Job`.
    overrides
        Texts ``section.key=value`` with the value in YAML; they take precedence over the file.

    Raises
    ------
    JobError
        Lists every problem with its path, the value given and the values allowed.
    """
    origin, name = "job", None
    if isinstance(source, Job):
        # Its variables and fields are expanded already
        source = unexpanded(source.model_dump(mode="json"))
    elif not isinstance(source, Mapping):
        origin, name = str(source), Path(source).stem
        source = _read_yaml(Path(source))
    problems: list[str] = []
    unset: list[str] = []
    raw: Any = None
    try:
        # Copy, so that the caller's mapping does not change
        document = _each_text(source, lambda text, _: text)
        for override in overrides:
            problems += _override(document, override)
        raw = document
        document = _each_text(document, _Expansion(name, problems, unset))
    except RecursionError:
        raise JobError(
            f"{origin}: its sections are nested too deeply; `colonnade schema` prints their form."
        ) from None
    job = None
    try:
        job = Job.model_validate(document)
    except ValidationError as error:
        found = [_described(problem, raw) for problem in error.errors(include_url=False)]
        # Leave out follow-up problems of unset variables
        problems += [f"{path}: {text}" for path, text in found if not _reported(path, unset)]
    if job is None or problems:
        count = counted(len(problems), "problem")
        more = len(problems) - JOB_PROBLEMS
        problems[JOB_PROBLEMS:] = [f"and {more} more"] if more > 0 else []
        raise JobError("\n  ".join([f"{origin}: {count}", *problems]))
    return job


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys and limits the number of values.

    By default, the last of equal keys wins silently, and a few lines of nested aliases expand to
    billions of values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._held: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count the values; those of an anchor count again for each alias."""
        before, aliased = self._values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if aliased:
            self._values += self._held.get(id(node), 0)
        else:
            self._values += 1
            self._held[id(node)] = self._values - before
        if self._values > JOB_VALUES:
            raise yaml.composer.ComposerError(
                None, None, f"it expands to more than {JOB_VALUES:,} values"
            )
        return node


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {sanitize(str(key.value))} is written twice",
                    key.start_mark,
                )
            seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _parsed(text: str) -> Any:
    """Parse YAML; raise ValueError with a one-line description of any error."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    # PyYAML lets errors of any type pass, as for !!int "", 2001-99-99 or a thousand brackets
    except Exception as error:
        raise ValueError(one_line(error).replace('in "<unicode string>", ', "at ")) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_regular(path, JOB_BYTES).decode()
    except FileNotFoundError:
        raise JobError(f"{path}: there is no such job file.") from None
    except (OSError, ValueError) as error:
        raise JobError(f"{path}: this job file cannot be read: {one_line(error)}") from None
    try:
        document = _parsed(text)
    except ValueError as error:
        raise JobError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(document, dict):
        sections = ", ".join(Job.model_fields)
        raise JobError(f"{path}: a job file has the sections {sections}; this one has none.")
    return document


def _override(document: dict[str, Any], text: str) -> list[str]:
    """Apply one ``section.key=value``; return its problems."""
    dotted, equals, value = text.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    said = f"--set {sanitize(text)}"
    if not equals or not all(keys):
        return [f"{said}: expected section.key=value"]
    try:
        parsed = _parsed(value)
    except ValueError as error:
        return [f"{said}: the value is not YAML: {error}"]
    place = document
    for depth, key in enumerate(keys[:-1], start=1):
        below = place.get(key)
        if below is None:
            below = place[key] = {}
        elif isinstance(below, str) and keys[:depth] == ["network", "activation"]:
            below = place[key] = {"name": below}
        if not isinstance(below, dict):
            return [f"{said}: {'.'.join(keys[:depth])} holds {_brief(below)}, not a section"]
        place = below
    place[keys[-1]] = parsed
    return []


def _each_text(value: Any, change: Callable[[str, str], str], path: str = "") -> Any:
    """Copy a document, replacing each text by `change(text, path)`."""
    if isinstance(value, str):
        return change(value, path)
    if isinstance(value, Mapping):
        return {key: _each_text(v, change, f"{path}.{key}".lstrip(".")) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(v, change, f"{path}.{i}") for i, v in enumerate(value)]
    return value


def unexpanded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Escape a job's document so that `load_job` reads it literally, expanding nothing."""
    written: dict[str, Any] = _each_text(document, _unexpanded)
    return written


def _unexpanded(text: str, path: str) -> str:
    text = text.replace("$", "$$")
    return re.sub(r"[{}]", r"\g<0>\g<0>", text) if path == "output.path" else text


_VARIABLE = re.compile(r"\$(?:(\$)|\{([^{}]*)\})")
# In output.path also escaped braces and fields. Any other brace is an error
_IN_OUTPUT = re.compile(rf"{_VARIABLE.pattern}|(\{{\{{|\}}\}})|({pathfields.FIELD})|([{{}}])")


@dataclass
class _Expansion:
    """Replace ${VAR} by the environment's value, $$ by $, and fields in output.path by theirs."""

    name: str | None
    problems: list[str]
    unset: list[str]

    def __call__(self, text: str, path: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            if match[2] is None:
                return self._field(match, path)
            if match[2] not in os.environ:
                self.problems.append(f"{path}: the environment has no variable {_brief(match[2])}")
                self.unset.append(path)
            return os.environ.get(match[2], "")

        return (_IN_OUTPUT if path == "output.path" else _VARIABLE).sub(replace, text)

    def _field(self, match: re.Match[str], path: str) -> str:
        if match[3]:
            return match[3][0]
        try:
            return pathfields.value(match[4] or match[5], self._moment, self.name)
        except ValueError as error:
            self.problems.append(f"{path}: given {_brief(match[4] or match[5])}; {error}")
            self.unset.append(path)
            return ""

    @cached_property
    def _moment(self) -> datetime:
        return pathfields.moment()


def _reported(path: str, unset: list[str]) -> bool:
    return any(f"{place}.".startswith(f"{path}.") for place in unset)


def _described(problem: ErrorDetails, raw: Any) -> tuple[str, str]:
    """Return a problem's path, and a line with the value given and the values allowed.

    The value is quoted from the `raw` document, since values from the environment may be secrets.
    """
    location = list(problem["loc"])
    # pydantic inserts the chosen kind of cluster after "cluster"
    if location[:1] == ["cluster"]:
        del location[1:2]
    given, context = _at(raw, location, problem["input"]), problem.get("ctx", {})
    shape = getattr(given, "shape", None)
    # For an array, == and `in` do not give a single truth value
    is_array = isinstance(shape, tuple) and len(shape) > 0
    match problem["type"]:
        case kind if is_array and kind != "extra_forbidden":
            text = (
                f"given an array of the shape {shape}; a job holds paths, which its workers open: "
                "save it, as with np.save('X.npy', X), and give that path, or call "
                "cn.jacobian(network, X), which takes arrays and needs no job"
            )
        case "extra_forbidden" | "invalid_key":
            known = _known_keys(problem["loc"][:-1])
            near = _nearest(location[-1], known)
            suggestion = f"did you mean {near}? " if near else ""
            text = f"unknown key; {suggestion}known here: {', '.join(known)}"
        case "missing":
            text = "required, and not given"
        case "union_tag_invalid":
            location.append("kind")
            text = _choice(given["kind"], context["expected_tags"])
        case "literal_error":
            text = _choice(given, context["expected"])
        case "value_error" if given == problem["input"] or "allowed: " in str(context["error"]):
            text = f"given {_brief(given)}; {sanitize(str(context['error']), 400)}"
        case "value_error":
            text = f"given {_brief(given)}; not allowed with the current values of its variables"
        case locations.SECRET:
            text = problem["msg"]
        case "model_type":
            known = _known_keys(problem["loc"])
            text = f"given {_brief(given)}; expected a section with {', '.join(known)}"
        case _:
            text = f"given {_brief(given)}; {problem['msg'].lower()}"
    # pydantic gives no location for a key that is not valid Unicode
    return ".".join(sanitize(str(part)) for part in location) or "keys", text


def _at(document: Any, location: Sequence[int | str], default: Any) -> Any:
    """Return the value at a location of a document; the default if there is no such location."""
    if not location:
        return default
    try:
        for part in location:
            document = document[part]
    except (KeyError, IndexError, TypeError):
        return default
    return document


def _brief(given: Any) -> str:
    try:
        return sanitize(repr(given))
    except ValueError:  # Python refuses to format integers of thousands of digits
        return "a number too long to show"


def _choice(given: Any, expected: str) -> str:
    """Describe a value, and the allowed values as pydantic lists them: 'a', 'b' or 'c'."""
    near = _nearest(given, re.findall(r"'([^']*)'", expected))
    suggestion = f"; did you mean {near}?" if near else ""
    return f"given {_brief(given)}; allowed: {expected}{suggestion}"


def _nearest(given: Any, known: Sequence[str]) -> str | None:
    """Return the nearest of some words, ignoring case."""
    if not isinstance(given, str):
        return None
    words = {word.lower(): word for word in known}
    near = get_close_matches(given.lower(), words, n=1, cutoff=0.5)
    return words[near[0]] if near else None


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at this location of the job file."""
    models: list[type[BaseModel]] = [Job]
    for part in location:
        # pydantic's location names the chosen one of several kinds
        if len(models) > 1:
            models = [m for m in models if part in get_args(m.model_fields["kind"].annotation)]
        else:
            models = list(_models(models[0].model_fields[str(part)].annotation))
    return [key for model in models[:1] for key in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every model within a (possibly tagged, optional) annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for below in get_args(annotation):
            yield from _models(below)

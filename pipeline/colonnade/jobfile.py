"""Read a job file: YAML, overrides, ${VAR}; every problem in one report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from colonnade.errors import JobError
from colonnade.job import Job

__all__ = ["load_job"]


def load_job(source: str | Path | Mapping[str, Any] | Job, overrides: Iterable[str] = ()) -> Job:
    """Read and check a job.

    Parameters
    ----------
    source
        A YAML file's path, a mapping of the same form, or a `Job`.
    overrides
        ``section.key=value`` each, the value in YAML; they win over the file.

    Raises
    ------
    JobError
        Lists every problem with its path, what was given and what is allowed.
    """
    if isinstance(source, Job):
        source = source.model_dump(mode="json")
    if isinstance(source, Mapping):
        document, origin = dict(source), "job"
    else:
        document, origin = _read_yaml(Path(source)), str(source)
    problems: list[str] = []
    for override in overrides:
        problems += _override(document, override)
    document = _expanded(document, "", problems)
    job = None
    try:
        job = Job.model_validate(document)
    except ValidationError as error:
        problems += [_told(problem) for problem in error.errors(include_url=False)]
    if job is None or problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise JobError("\n  ".join([f"{origin}: {count}", *problems]))
    return job


class _Loader(yaml.SafeLoader):
    """YAML without its silent last-one-wins for a key that is written twice."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is written twice", key.start_mark
                )
            seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: there is no such job file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: this job file cannot be read: {error}") from None
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise JobError(f"{path}: this is not YAML: {told}") from None
    if not isinstance(document, dict):
        sections = ", ".join(Job.model_fields)
        raise JobError(f"{path}: a job file has the sections {sections}; this one has none.")
    return document


def _override(document: dict[str, Any], text: str) -> list[str]:
    """Apply one ``section.key=value``; return the problems it has."""
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        return [f"--set {text}: expected section.key=value"]
    try:
        parsed = yaml.load(value, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        return [f"--set {text}: the value is not YAML: {' '.join(str(error).split())}"]
    place = document
    for key in keys[:-1]:
        below = place.setdefault(key, {})
        if below is None or isinstance(below, str):
            below = place[key] = {} if below is None else {"name": below}
        if not isinstance(below, dict):
            return [f"--set {text}: {key} holds {below!r}, which has no keys"]
        place = below
    place[keys[-1]] = parsed
    return []


_VARIABLE = re.compile(r"\$(?:(\$)|\{([^}]*)\})")


def _expanded(value: Any, path: str, problems: list[str]) -> Any:
    """Replace ${VAR} by the environment's value and $$ by $, in every string."""
    if isinstance(value, dict):
        return {
            key: _expanded(below, f"{path}.{key}".lstrip("."), problems)
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [_expanded(below, f"{path}.{i}", problems) for i, below in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if match[2] not in os.environ:
            problems.append(f"{path}: the environment has no variable {match[2]!r}")
            return ""
        return os.environ[match[2]]

    return _VARIABLE.sub(replace, value)


def _told(problem: ErrorDetails) -> str:
    """One problem in one line: its path, what was given, what is allowed."""
    location = list(problem["loc"])
    # pydantic puts the kind of cluster that it chose behind "cluster"
    if location[0] == "cluster":
        del location[1:2]
    path = ".".join(str(part) for part in location)
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            near = get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            suggestion = f"did you mean {near[0]}? " if near else ""
            return f"{path}: unknown key; {suggestion}Known here: {', '.join(known)}"
        case "missing":
            return f"{path}: required, and not given"
        case "union_tag_invalid":
            kinds = problem["ctx"]["expected_tags"]
            return f"{path}.kind: given {problem['ctx']['tag']!r}; allowed: {kinds}"
        case "literal_error":
            return f"{path}: given {given!r}; allowed: {problem['ctx']['expected']}{_near(problem)}"
        case "value_error":
            return f"{path}: given {_brief(given)}; {problem['ctx']['error']}"
        case "model_type" | "model_attributes_type":
            known = _known_keys(problem["loc"])
            return f"{path}: given {_brief(given)}; expected a section with {', '.join(known)}"
        case _:
            return f"{path}: given {_brief(given)}; {problem['msg'].lower()}"


def _brief(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _near(problem: ErrorDetails) -> str:
    allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    near = get_close_matches(str(problem["input"]), allowed, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Keys of the section at this place of the job file."""
    models: list[type[BaseModel]] = [Job]
    for part in location:
        below = [model for model in models if part in model.model_fields]
        if below:
            annotation = below[0].model_fields[str(part)].annotation
            models = list(_models(annotation))
        else:
            models = [m for m in models if part in get_args(m.model_fields["kind"].annotation)]
    return [key for model in models[:1] for key in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model within a (possibly tagged, optional) annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for below in get_args(annotation):
            yield from _models(below)

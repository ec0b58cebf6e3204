"""The floors of the house: a file imports only from floors below its own, at its top."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import colonnade

FLOORS = {
    10: ["cli"],
    9: ["submit"],
    8: ["reporting", "running"],
    7: ["doctor", "reading", "verification"],
    6: ["clusters", "store"],
    5: ["planning"],
    4: ["compute", "job"],
    3: ["inputs", "network", "progress"],
    2: ["signals", "storage"],
    1: ["buffers", "errors", "events", "formatting", "grid", "process", "versions"],
    0: ["limits"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
PACKAGE = Path(colonnade.__file__).parent
ROOT = Path(__file__).parents[1]
# The package's face: they import from anywhere, and nothing imports from them but the version
FACES = {"__init__", "__main__"}
HEAVY = {
    "xarray": {"reading", "reporting"},
    "distributed": {"clusters", "running"},
    "click": {"cli"},
}


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top."""
    top = {id(node) for node in ast.iter_child_nodes(tree)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from colonnade import clusters` names a module, `from colonnade.x import y` a name
            face = node.module == "colonnade"
            names = [f"colonnade.{a.name}" for a in node.names] if face else [str(node.module)]
        else:
            continue
        found += [(name, id(node) in top) for name in names]
    return found


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in FACES
)


def module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_has_a_floor() -> None:
    assert {module(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    for name, at_top in imports(ast.parse(path.read_text())):
        first, *rest = name.split(".")
        allowed = HEAVY.get(first)
        assert allowed is None or module(path) in allowed, f"{path.name} imports {name}"
        if first != "colonnade" or rest == ["__version__"]:
            continue
        assert at_top, f"{path.name} imports {name} within a function"
        below = FLOOR[rest[0]] < FLOOR[module(path)] or rest[0] == module(path)
        assert below, f"{path.name} (floor {FLOOR[module(path)]}) imports {name}"


def test_what_is_imported_is_asked_for() -> None:
    """A package that another brings may go when that one changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = chain(project["dependencies"], *project["optional-dependencies"].values())
    asked = {canonicalize_name(Requirement(text).name) for text in texts}
    brought_by = packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for name, _ in imports(ast.parse(path.read_text())):
            first = name.split(".")[0]
            if first in sys.stdlib_module_names or first == "colonnade":
                continue
            by = {canonicalize_name(each) for each in brought_by.get(first, [first])}
            assert by & asked, f"{path.relative_to(PACKAGE)} imports {first}, of {by}"


def test_plan_is_pure_arithmetic() -> None:
    names = {
        name.split(".")[0]
        for name, _ in imports(ast.parse((PACKAGE / "planning" / "plan.py").read_text()))
    }
    assert names.isdisjoint({"numpy", "zarr", "dask", "distributed"})


def test_public_names() -> None:
    assert colonnade.__all__ == dir(colonnade)
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    (listed,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == colonnade.__all__
    for name in colonnade.__all__:
        value = getattr(colonnade, name)
        assert value.__doc__
        # No folder of the package hides it
        assert not isinstance(value, ModuleType)
        assert not (PACKAGE / name).exists()
        assert not (PACKAGE / f"{name}.py").exists()


def test_folders_only_name_what_they_hold() -> None:
    """A class or a function has a file of its own, by whose name it is found."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent == PACKAGE:
            continue
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign), path


def test_importing_it_is_quick() -> None:
    """What a name needs comes when it is asked for."""
    told = subprocess.run(
        [sys.executable, "-c", "import sys, colonnade; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {"dask", "distributed", "numpy", "pandas", "pydantic", "xarray", "zarr"}
    assert heavy.isdisjoint(told)


def test_importing_it_changes_nothing() -> None:
    """Handlers of signals are the command's."""
    code = (
        "import signal, colonnade as cn\n"
        "assert cn.run and cn.verify\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

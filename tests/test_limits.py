"""The limits: one place in the code, one table in SECURITY.md, and the two agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from colonnade import limits

PAGE = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
UNITS = {"EiB": 2**60, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


def documented() -> dict[str, str]:
    """Each limit's docstring."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    found = {}
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            assert isinstance(target, ast.Name)
            assert isinstance(following, ast.Expr), f"{target.id} has no docstring"
            assert isinstance(following.value, ast.Constant)
            found[target.id] = " ".join(str(following.value.value).split())
    return found


def written(name: str, value: int) -> str:
    """The value as the table has it."""
    if name.endswith("_BYTES"):
        fitting = [unit for unit, size in UNITS.items() if value % size == 0]
        return f"{value // UNITS[fitting[0]]:,} {fitting[0]}" if fitting else f"{value:,} bytes"
    if value > 2**40:
        return f"2^{value.bit_length() - 1}"
    ends = {"_CHARACTERS": " characters", "_SECONDS": " s", "_INFLATION": " times"}
    return f"{value:,}" + next((end for key, end in ends.items() if name.endswith(key)), "")


def test_the_table_has_every_limit_as_it_is() -> None:
    """Its rows are what the docstrings begin with, the values, and the names, in their order."""
    rows = re.findall(r"^\| (.+) \| (.+) \| `([A-Z0-9_]+)` \|$", PAGE, re.MULTILINE)
    assert rows == [
        (said.partition(". ")[0].rstrip("."), written(name, getattr(limits, name)), name)
        for name, said in documented().items()
    ]


def test_every_limit_says_why_and_is_used() -> None:
    package = Path(limits.__file__).parent
    sources = [p.read_text(encoding="utf-8") for p in package.rglob("*.py") if p.stem != "limits"]
    for name, said in documented().items():
        assert said.endswith(".")
        assert any(re.search(rf"\b{name}\b", source) for source in sources), name


def test_limits_stand_nowhere_else() -> None:
    """Of what others have written: widths of a display and sizes of buffers are no limits."""
    display = {"_MOST_TOLD", "_MOST_CELLS", "_MOST_DEFLATED"}
    package = Path(limits.__file__).parent
    for path in package.rglob("*.py"):
        found = re.findall(r"^(_?(?:MOST|LONGEST)_[A-Z_]+) = ", path.read_text(), re.MULTILINE)
        assert set(found) <= display, path

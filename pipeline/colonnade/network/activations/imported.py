"""Import the user's own activation from a module, and check that it is a valid σ.

It is named ``package.module:object`` and is one of
* an object with methods `value` and `slope`. `slope` returns σ′ of each number; or, if σ mixes the
  entries of a column (never those of two columns), the tuple d (m, B), A (r, m, B), B (r, m, B)
  that stands for Diag(d) + Σ_r a_r b_rᵀ;
* a function of arrays in jax.numpy, which JAX differentiates exactly, by forward mode.

Both must keep float32 and float64. `check` compares value and slope, and verifies that σ mixes
neither columns nor, if it is elementwise, the entries of a column.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from colonnade.errors import UsageError, import_optional, one_line
from colonnade.network.activations.formulas import FORMATS, Array, LowRank, Slope

__all__ = ["Imported", "check", "derivative", "imported", "is_import", "probes"]

_WORD = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_NAME = re.compile(f"{_WORD}:{_WORD}")
# Step of the difference quotients, before extrapolation
_STEP = 2.0**-10
# Largest relative difference between the slope and a difference quotient
_TOLERANCE = 1e-6
# Relative error of a complex step
_EXACT = 1e-12
_COLUMNS = 5


class Imported(NamedTuple):
    """An imported σ."""

    name: str
    value: partial[Array]
    slope: partial[Slope]
    columnwise: bool


def is_import(name: str) -> bool:
    """Return whether a name is to be imported: dotted names on both sides of a colon."""
    return _NAME.fullmatch(name) is not None


@lru_cache
def imported(name: str) -> Imported:
    """Import a σ.

    Raises
    ------
    UsageError
        The object cannot be imported on this host, which the message names, or is not a σ.
    """
    module, _, path = name.partition(":")
    here = f"the activation {name} cannot be imported on {socket.gethostname()}: "
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    # Importing runs the module, which may raise anything
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{here}{one_line(error)} ({type(error).__name__}). The module {module} must be "
            "importable on every host of the run: install it there, or add its folder to "
            "PYTHONPATH."
        ) from error
    if isinstance(found, type):
        raise UsageError(f"the activation {name} is a class; name an instance of the class.")
    value, slope = getattr(found, "value", None), getattr(found, "slope", None)
    if callable(value) and callable(slope):
        given = _call(slope, _points(2), name, "slope")
        columnwise = isinstance(given, tuple)
        return Imported(
            name, partial(_value, value, name), partial(_slope, slope, name), columnwise
        )
    if callable(found):
        value, slope = _by_jax(found, here)
        return Imported(name, partial(_value, value, name), partial(_slope, slope, name), False)
    raise UsageError(
        f"the activation {name} is of type {type(found).__name__}; it must be a function, or an "
        "object with the methods value and slope."
    )


def _by_jax(function: Any, here: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    message = f"{here}it lacks methods value and slope, and differentiating a function needs JAX"
    jax = import_optional("jax", "jax", UsageError, message)

    @jax.jit  # type: ignore[untyped-decorator]
    def slope(z: Any) -> Any:
        return jax.jvp(function, (z,), (jax.numpy.ones_like(z),))[1]

    value = jax.jit(function)

    def exactly(compiled: Any, z: Array) -> Array:
        # By default JAX rounds float64 to float32
        with jax.enable_x64(True):
            return np.array(compiled(z))

    return partial(exactly, value), partial(exactly, slope)


def _call(function: Callable[[Any], Any], z: Array, name: str, what: str) -> Any:
    try:
        return function(z)
    except Exception as error:
        raise UsageError(
            f"the activation {name}: its {what} fails on an array of shape {z.shape} and type "
            f"{z.dtype}: {type(error).__name__}: {one_line(error)}. Write a plain function in "
            "jax.numpy, or give an object with methods value and slope that take NumPy arrays."
        ) from error


def _value(function: Callable[[Any], Any], name: str, z: Array) -> Array:
    return _same(_call(function, z, name, "value"), z, name, "value")


def _slope(function: Callable[[Any], Any], name: str, z: Array) -> Slope:
    given = _call(function, z, name, "slope")
    if not isinstance(given, tuple):
        return _same(given, z, name, "slope")
    if len(given) != 3:
        raise UsageError(
            f"the activation {name}: its slope returns a tuple of {len(given)} arrays; it must "
            "return (d, A, B), or one array if σ is elementwise."
        )
    d, A, B = (np.asarray(part) for part in given)
    _same(d, z, name, "slope d")
    for factor, what in ((A, "slope A"), (B, "slope B")):
        if factor.ndim == 0 or factor.shape[0] != len(A):
            raise UsageError(
                f"the activation {name}: its {what} must have the shape (r, *z.shape), with the "
                "same r for A and B."
            )
        for part in factor:
            _same(part, z, name, what)
    return LowRank(d, A, B)


def _same(given: Any, z: Array, name: str, what: str) -> Array:
    found = np.asarray(given)
    if found.shape != z.shape or found.dtype != z.dtype:
        raise UsageError(
            f"the activation {name}: its {what} returns {found.shape} {found.dtype} for "
            f"{z.shape} {z.dtype}; it must keep the shape and the type."
        )
    return found


def _points(m: int) -> Array:
    """Return irregular numbers of several magnitudes, the same on every machine."""
    i, k = np.arange(m)[:, None], np.arange(_COLUMNS)
    unit = ((7919 * i + 104729 * k + 31 * i * k) % 2003 - 1001) / 1009
    points: Array = unit * np.array([4.0, 1.0, 0.3, 2.0, 8.0])
    return points


def probes(found: Imported, m: int) -> list[str]:
    """Return values and slopes of σ at fixed points, which identify it for m hidden units.

    They have eight digits, in which machines and library versions agree.
    """
    z = _points(m if found.columnwise else 97)
    with np.errstate(all="ignore"):
        slope = found.slope(z)
        if isinstance(slope, LowRank):
            slope = _applied(slope, _points(m)[:, ::-1])
        return [f"{number + 0.0:.7e}" for part in (found.value(z), slope) for number in part.flat]


def derivative(found: Imported, z: Array, v: Array | float = 1.0) -> tuple[Array, Array]:
    """Return the derivative of the value at z in direction v, and a bound on its error.

    σ's own slope is not used. The derivative is a complex step where σ takes complex numbers and
    the step agrees with difference quotients, and a difference quotient elsewhere.
    """
    v = np.broadcast_to(np.asarray(v, np.float64), z.shape)
    sides = np.stack([_quotient(found.value, z, v, side) for side in (0, 1, -1)])
    scale = 1 + np.abs(found.value(z)) + np.abs(sides).max(axis=0)
    # At a kink, either one-sided derivative is valid
    centre, error = sides[0], np.abs(sides - sides[0]).max(axis=0) + _TOLERANCE * scale
    try:
        # Call the user's function directly: the wrapper would reject a complex result
        stepped = np.asarray(found.value.args[0](z + 1e-100j * v)) / 1e-100
    except Exception:  # noqa: BLE001 (σ does not take complex numbers)
        return centre, error
    exact = stepped.imag if np.iscomplexobj(stepped) and stepped.shape == z.shape else centre
    agree = np.abs(exact - centre) <= error
    return np.where(agree, exact, centre), np.where(agree, _EXACT * scale, error)


@lru_cache
def check(found: Imported, m: int) -> None:
    """Compare value and slope at points spread over [−8, 8], for columns of m entries.

    The slope must be within 1e-6 of a difference quotient of the value: the central one or, at a
    kink, a one-sided one.

    Raises
    ------
    UsageError
        Value and slope disagree, σ mixes columns, or an elementwise σ mixes a column's entries.
    """
    z = _points(m)
    with np.errstate(all="ignore"):
        for dtype in FORMATS:
            found.value(z.astype(dtype))
            found.slope(z.astype(dtype))
        _check_mixing(found, z)
        slope = found.slope(z)
        if isinstance(slope, LowRank):
            _check_directions(found, z, slope)
        else:
            _check_slopes(found, _points(97).ravel())


def _check_mixing(found: Imported, z: Array) -> None:
    before = found.value(z)
    slope = found.slope(z)
    for k in range(_COLUMNS):
        moved = z.copy()
        moved[:, k] = z[::-1, k] * 0.5 + 0.25
        others = np.arange(_COLUMNS) != k
        after, turned = found.value(moved), found.slope(moved)
        parts = slope if isinstance(slope, LowRank) else (slope,)
        new = turned if isinstance(turned, LowRank) else (turned,)
        alike = _alike(before[:, others], after[:, others]) and all(
            _alike(a[..., others], b[..., others]) for a, b in zip(parts, new, strict=True)
        )
        if not alike:
            raise UsageError(
                f"the activation {found.name} mixes columns: changing column {k} of Z changes "
                "other columns of σ(Z). A column's output then depends on all of X, and a column "
                "has no Jacobian block. Replace statistics over samples by fixed numbers."
            )
    if found.columnwise:
        return
    h = len(z) // 2
    moved = z.copy()
    moved[h, 1] += 0.75
    change = ~np.isclose(before, found.value(moved), rtol=1e-9, atol=1e-12, equal_nan=True)
    change[h, 1] = False
    if change.any() or not _alike(before.ravel(), found.value(z.ravel())):
        raise UsageError(
            f"the activation {found.name} mixes the entries of a column, as softmax does, so its "
            "slope at a column is a matrix. Give an object whose slope returns (d, A, B), for the "
            "matrix Diag(d) + Σ_r a_r b_rᵀ."
        )


def _alike(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.allclose(
        one, other, rtol=1e-9, atol=1e-12, equal_nan=True
    )


def _check_slopes(found: Imported, z: Array) -> None:
    slope = np.asarray(found.slope(z))
    sides = [_quotient(found.value, z, np.ones_like(z), side) for side in (0, 1, -1)]
    _compare(found, z, slope, sides)


def _check_directions(found: Imported, z: Array, slope: LowRank) -> None:
    for first in range(4):
        direction = np.roll(_points(len(z) + 3)[3:], first, axis=1)
        direction = direction / (1 + np.abs(direction).max())
        sides = [_quotient(found.value, z, direction, side) for side in (0, 1, -1)]
        _compare(found, z, _applied(slope, direction), sides)


def _applied(slope: LowRank, v: Array) -> Array:
    applied: Array = slope.d * v + (slope.A * (slope.B * v).sum(axis=1, keepdims=True)).sum(axis=0)
    return applied


def _quotient(value: Callable[[Any], Any], z: Array, v: Array, side: int) -> Array:
    """Return a difference quotient at z in direction v: central (side 0) or one-sided (±1)."""

    def at(step: float) -> Array:
        low, high = {0: (-step, step), 1: (0, step), -1: (-step, 0)}[side]
        difference: Array = (value(z + high * v) - value(z + low * v)) / (high - low)
        return difference

    # Richardson extrapolation leaves an error of O(step⁴) if central, O(step³) if one-sided
    once, twice = at(_STEP), at(_STEP / 2)
    if side == 0:
        between: Array = (4 * twice - once) / 3
        return between
    aside: Array = (once - 6 * twice + 8 * at(_STEP / 4)) / 3
    return aside


def _compare(found: Imported, z: Array, slope: Array, sides: list[Array]) -> None:
    scale = 1 + np.abs(found.value(z)) + np.max(np.abs(sides), axis=0)
    error = np.min([np.abs(slope - side) for side in sides], axis=0) / scale
    error = np.where(np.isfinite(sides[0]), np.where(np.isnan(error), np.inf, error), 0)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    if error[worst] > _TOLERANCE:
        count = int(np.count_nonzero(error > _TOLERANCE))
        where = "in a direction " if found.columnwise else ""
        raise UsageError(
            f"the activation {found.name}: value and slope disagree at {count} of {error.size} "
            f"points. At z = {z[worst]:.6g}, σ is {found.value(z)[worst]:.9g} and its slope {where}"
            f"is {slope[worst]:.9g}, but difference quotients of σ give {sides[0][worst]:.9g}. "
            "Correct the slope."
        )

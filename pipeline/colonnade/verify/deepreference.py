"""What the results of any network must be, by their definitions, and how far rounding takes them.

`reference` is that of one hidden layer, closer and with more to compare; the bounds here are made
in the same way, layer by layer. With |A| the absolute values of A, u the unit roundoff:

* z_l = W_l h + b_l is off by |W_l| e + (n + 2) u (|W_l||h| + |b_l|), where h = σ(z_(l−1)) is off
  by e: what z_(l−1) is off by, times the largest slope there, and what the formula adds;
* D_l lies within R_l of its value at z_l, for every z within what z_l is off by;
* J = W_L D_(L−1) … W_1 then moves by |W_L| (|D_(L−1)| + R_(L−1)) … |W_1| − |W_L||D_(L−1)| … |W_1|
  at most, and products in any order are off by (Σ 2 m_l + …) u times the first of these.

Each hidden layer of m units widens the bounds by about √m against the numbers: in float32, those of
deep and wide networks let pass what float64 would show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.kernel import working_dtype
from colonnade.network import Network
from colonnade.verify.definitions import LEAST, sigma, slope_range
from colonnade.verify.mixing import mixed
from colonnade.verify.reference import (
    FORMULAS,
    U64,
    Array,
    Enclosure,
    Reference,
    Rounding,
    anything,
    unit,
    within,
)

__all__ = ["DeepReference", "make_reference"]


def make_reference(
    network: Network, x_dtype: DTypeLike, dtype: DTypeLike, significant_bits: int | None = None
) -> Reference | DeepReference:
    """Choose the closer one of the two."""
    kind = Reference if network.has_slopes else DeepReference
    return kind(network, x_dtype, dtype, significant_bits)


class DeepReference(Rounding):
    """The definitions of the results of a network of any depth, with any σ.

    Parameters
    ----------
    x_dtype, dtype, significant_bits
        As for `Reference`.
    """

    def __init__(
        self,
        network: Network,
        x_dtype: DTypeLike,
        dtype: DTypeLike,
        significant_bits: int | None = None,
    ) -> None:
        self._layers = [(W.astype(np.float64), b.astype(np.float64)) for W, b in network.layers]
        self._network = network
        super().__init__(working_dtype(network, x_dtype, dtype), dtype, significant_bits)

    def column(self, x: NDArray[Any]) -> dict[str, Enclosure]:
        """Enclose one column's jacobian (q, n), value (q,), norm () and spectral_norm ()."""
        n, q = self._network.n, self._network.q
        shapes = {"jacobian": (q, n), "value": (q,), "norm": (), "spectral_norm": ()}
        x = x.astype(np.float64)
        if np.isnan(x).any():
            return {name: _nan(shape) for name, shape in shapes.items()}
        with np.errstate(all="ignore"):
            found = self._forward(x)
            if found is None:
                return {name: anything(shape) for name, shape in shapes.items()}
            value, slopes = found
            jacobian, radius = self._jacobian(slopes)
            norms = self._norms(jacobian, radius)
        radius = radius + self._cut * (np.abs(jacobian) + radius)
        return {"jacobian": Enclosure(jacobian, radius), "value": value, **norms}

    def _forward(self, x: Array) -> tuple[Enclosure, list[tuple[Array, Array, Array]]] | None:
        """Enclose Y, and find D, how far it may be off, and the size of its parts, layer by layer.

        None where something may leave the range of its type.
        """
        u, tiny, most = unit(self._working), float(self._working.tiny), float(self._working.max)
        h, e = x, np.zeros_like(x)
        slopes = []
        for i, (W, b) in enumerate(self._layers):
            n = len(h)
            size = np.abs(W) @ (np.abs(h) + e) + np.abs(b)
            z = W @ h + b
            delta = np.abs(W) @ e + (n + 2) * (u + U64) * size + 4 * (n + 1) * tiny
            if not (size < most / 4).all():
                return None
            if i == len(self._network.activations):
                break
            h, e, slope = self._slope(i, z, delta)
            slopes.append(slope)
        return Enclosure(z, within(delta + self._rounded(z), size, self.stored)), slopes

    def _slope(
        self, i: int, z: Array, delta: Array
    ) -> tuple[Array, Array, tuple[Array, Array, Array]]:
        activation = self._network.activations[i]
        name, parameters = activation.name, activation.parameters
        u = unit(self._working)
        # They are rounded to the type of the results as well
        rounded = FORMULAS * u + 2 * unit(self.stored)
        least = max(LEAST, 4 * float(self._working.tiny)) * (1 + sum(map(abs, parameters.values())))
        least += 4 * float(self.stored.tiny)
        if activation.columnwise:
            # Sums of m terms, of numbers that are as large as the largest
            delta = delta + (len(z) + FORMULAS) * u * np.abs(z).max()
            found = mixed(name, parameters, z, delta, len(z) * u + rounded)
            return found.value, found.value_error, (found.D, found.error + least, found.parts)
        delta = delta + FORMULAS * u * np.abs(z)
        low, high = slope_range(name, parameters, z - delta, z + delta)
        largest = np.maximum(np.abs(low), np.abs(high))
        centre, radius = (low + high) / 2, (high - low) / 2 + rounded * largest + least
        value = sigma(name, parameters, z)
        e = delta * largest + FORMULAS * u * np.abs(value) + least
        return value, e, (centre, radius, np.abs(centre))

    def _jacobian(self, slopes: list[tuple[Array, Array, Array]]) -> tuple[Array, Array]:
        J = self._layers[0][0]
        # With |D|, with |D| + R, and with the parts of D
        inner = outer = parts = np.abs(J)
        terms, scale = 8, 1.0 + np.abs(J).max()
        for (W, _), (D, R, size) in zip(self._layers[1:], slopes, strict=True):
            J = W @ _times(D, J)
            A = np.abs(W)
            inner, outer = A @ _times(np.abs(D), inner), A @ _times(np.abs(D) + R, outer)
            parts = A @ _times(size + R, parts)
            terms += 2 * len(D) + 16
            scale *= len(D) * (1 + A.max()) * (1 + np.max(size + R))
        rounding = terms * (unit(self.stored) + U64) * parts + terms * U64 * outer
        radius = outer - inner + rounding + 4 * float(self.stored.tiny) * scale
        return J, within(radius, scale, self.stored)

    def _norms(self, J: Array, radius: Array) -> dict[str, Enclosure]:
        """They are made of the computed block, and move by no more than the norm of its error."""
        k = min(J.shape)
        known = np.isfinite(J).all()
        norm = np.linalg.norm(J)
        found = {}
        for name in ("norm", "spectral_norm"):
            order = None if name == "norm" else 2
            centre = np.linalg.norm(J, order) if known else np.float64(np.nan)
            # Of the square, which is a sum, or an eigenvalue of a matrix of sums
            square = (8 * k * k + 2 * J.size + 32) * U64 * norm**2
            root = min(np.sqrt(square), square / centre) if centre > 0 else np.sqrt(square)
            # Squares of what is tiny would vanish
            scale = max(float(radius.max()), float(np.finfo(np.float64).tiny))
            moved = scale * np.linalg.norm(radius / scale)
            bound = np.asarray(moved + root + self._rounded(centre))
            found[name] = Enclosure(np.asarray(centre), within(bound, norm, self.stored))
        return found


def _times(D: Array, M: Array) -> Array:
    product: Array = D @ M if D.ndim == 2 else D[:, None] * M
    return product


def _nan(shape: tuple[int, ...]) -> Enclosure:
    return Enclosure(np.full(shape, np.nan), np.zeros(shape))

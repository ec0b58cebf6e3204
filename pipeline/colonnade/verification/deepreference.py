"""Enclose the results of any network, from their definitions and the rounding errors.

`reference` handles one hidden layer with an elementwise σ: its bounds are tighter, and it encloses
more arrays. The bounds here are derived in the same way, layer by layer. With |A| the absolute
values of A and u the unit roundoff, the error is at most

* for z_l = W_l h + b_l: |W_l| e + (n + 2) u (|W_l||h| + |b_l|), where e is the error of
  h = σ(z_(l−1)): the error of z_(l−1) times the largest slope near it, plus that of the formula;
* for D_l: R_l, such that D_l(z) is within R_l of D_l(z_l) for every z within the error of z_l;
* for J = W_L D_(L−1) … W_1: |W_L| (|D_(L−1)| + R_(L−1)) … |W_1| − |W_L||D_(L−1)| … |W_1|, plus
  (Σ 2 m_l + …) u times the first of these two terms for products in any order.

The bound of a product J v is tighter, because all entries of J share the error of each D: if
t_(l−1) has an error e, then t_l = W_l D_(l−1) t_(l−1) has |W_l| [(|D| + R) e + R |t_(l−1)|]. The
rounding error of each entry of J is bounded by the products of absolute values, as above.

Each hidden layer of m units widens the bounds, relative to the numbers, by about √m. In float32,
the bounds of deep and wide networks therefore miss errors that those in float64 would reveal.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.compute.kernel import working_dtype
from colonnade.network.network import Network
from colonnade.verification.definitions import LEAST, sigma, slope_range
from colonnade.verification.mixing import mixed, mixed_columns
from colonnade.verification.reference import (
    FORMULAS,
    U64,
    Array,
    Enclosure,
    Reference,
    Results,
    Rounding,
    anything,
    enclosed,
    unit,
    within,
)

__all__ = ["DeepReference", "make_reference"]


def make_reference(
    network: Network, x_dtype: DTypeLike, dtype: DTypeLike, significant_bits: int | None = None
) -> Reference | DeepReference:
    """Return the reference with the tightest bounds that the network allows."""
    kind = Reference if network.has_slopes else DeepReference
    return kind(network, x_dtype, dtype, significant_bits)


def _settled(
    arrays: dict[str, Enclosure], nan: NDArray[np.bool_], unknown: NDArray[np.bool_]
) -> dict[str, Enclosure]:
    """Enclose columns of X with NaN by NaN, and columns about which nothing is known by anything.

    Parameters
    ----------
    nan, unknown
        (B,), which columns these are.
    """
    found = {}
    for name, (centre, radius) in arrays.items():
        shape = (-1, *(1 for _ in centre.shape[1:]))
        free = np.where(unknown.reshape(shape), np.inf, radius)
        found[name] = Enclosure(
            np.where(nan.reshape(shape), np.nan, centre), np.where(nan.reshape(shape), 0.0, free)
        )
    return found


class DeepReference(Rounding):
    """Encloses the results of a network of any depth, with any σ.

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

    @property
    def units_count(self) -> int:
        """Number of hidden units of the widest layer."""
        return max(self._network.hidden, default=1)

    @property
    def outputs(self) -> int:
        """Number of outputs, q."""
        return self._network.q

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
            block, radius, scale = self._jacobian(slopes)
            norms = self._norms(block, radius, scale)
            jacobian = self.cut_block(block, radius, scale)
        return {"jacobian": jacobian, "value": value, **norms}

    def columns(
        self,
        X: NDArray[Any],
        v: Array,
        names: Container[str],  # noqa: ARG002 (the signature of `Reference.columns`)
    ) -> Results | None:
        """Enclose the results of all columns of X (n, B), as `Reference.columns` does.

        ‖J_k‖_F and ‖J_k‖₂ lie between |J_k v|/|v| and the product of the factors' norms.

        Returns
        -------
        The enclosures; None if an imported σ mixes the entries of a column.
        """
        u, tiny, most = unit(self._working), float(self._working.tiny), float(self._working.max)
        v = np.asarray(v, np.float64)
        X = X.astype(np.float64)
        nan = np.isnan(X).any(axis=0)
        h = np.where(nan, 0.0, X)
        e, unknown = np.zeros_like(h), np.zeros(len(nan), bool)
        # J v so far, its error bound, and the sum of the absolute values of its terms
        t, off, size = (np.broadcast_to(a[:, None], h.shape) for a in (v, 0 * v, np.abs(v)))
        terms, scale, norms = 8, np.full(len(nan), np.abs(v).sum()), np.ones(len(nan))
        with np.errstate(all="ignore"):
            for i, (W, b) in enumerate(self._layers):
                n, A = len(h), np.abs(W)
                large = A @ (np.abs(h) + e) + np.abs(b)[:, None]
                z = W @ h + b[:, None]
                delta = A @ e + (n + 2) * (u + U64) * large + 4 * (n + 1) * tiny
                unknown |= ~(large < most / 4).all(axis=0)
                z, delta = np.where(unknown, 0.0, z), np.where(unknown, 0.0, delta)
                t, off, size = W @ t, A @ off, A @ size
                scale = scale * (n * (1 + A.max()))
                norms = norms * np.linalg.norm(W)
                if i == len(self._network.activations):
                    break
                found = self._slopes(i, z, delta, (t, off, size))
                if found is None:
                    return None
                h, e, (t, off, size), steepest, near = found
                unknown |= near
                terms += 2 * len(h) + 16
                scale, norms = scale * (1 + steepest), norms * steepest
            value = enclosed(z, delta + self._rounded(z), large, self.stored)
            radius = off * (1 + terms * U64) + terms * (unit(self.stored) + 2 * U64) * size
            radius += 4 * float(self.stored.tiny) * scale
            radius = within(radius, scale, self.stored)
            least, length = np.linalg.norm(t, axis=0), np.linalg.norm(v)
            least = np.maximum(least - np.linalg.norm(radius, axis=0), 0) / length
            wide = (norms - least) / 2 + self._rounded(2 * norms)
            wide += norms * terms * (unit(self.stored) + 2 * U64)
            norm = enclosed((norms + least) / 2, wide, norms * 2, self.stored)
        arrays = {
            "jacobian": Enclosure(t.T, radius.T),
            "value": Enclosure(value.centre.T, value.radius.T),
            "norm": norm,
            "spectral_norm": norm,
        }
        return Results(_settled(arrays, nan, unknown), unknown & ~nan, size.T)

    def _slopes(
        self, i: int, z: Array, delta: Array, tangent: tuple[Array, Array, Array]
    ) -> tuple[Array, Array, tuple[Array, Array, Array], Array, NDArray[np.bool_]] | None:
        """Apply σ of hidden layer i, and D, to all columns and their tangents.

        Returns
        -------
        σ(z) and its error bound; the tangent; a bound of the norm of D, and whether a column's D
        is unknown, (B,) each. None if σ is imported and mixes the entries of a column.
        """
        t, off, size = tangent
        activation = self._network.activations[i]
        if not activation.columnwise:
            h, e, (D, R, _) = self._slope(i, z, delta)
            outer = np.abs(D) + R
            tangent = D * t, outer * off + R * np.abs(t), outer * size
            return h, e, tangent, outer.max(axis=0), np.zeros(z.shape[1], bool)
        delta, relative, least = self._columnwise(i, z, delta)
        found = mixed_columns(activation.name, activation.parameters, z, delta, relative)
        if found is None:
            return None

        def error(x: Array) -> Array:
            moved: Array = found.error_times(x) + least * x.sum(axis=0)
            return moved

        def outer_times(x: Array) -> Array:
            return found.parts_times(x) + error(x)

        tangent = found.times(t), outer_times(off) + error(np.abs(t)), outer_times(size)
        # The norm of a matrix is at most √m times its largest sum of absolute values in a row
        steepest = len(z) ** 0.5 * outer_times(np.ones_like(z)).max(axis=0)
        return found.value, found.value_error, tangent, steepest, found.unknown

    def _forward(self, x: Array) -> tuple[Enclosure, list[tuple[Array, Array, Array]]] | None:
        """Enclose Y; for each hidden layer, compute D, its error bound and the size of its parts.

        Return None if a value may overflow.
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
        return enclosed(z, delta + self._rounded(z), size, self.stored), slopes

    def _slope(
        self, i: int, z: Array, delta: Array
    ) -> tuple[Array, Array, tuple[Array, Array, Array]]:
        activation = self._network.activations[i]
        name, parameters = activation.name, activation.parameters
        if activation.columnwise:
            delta, relative, least = self._columnwise(i, z, delta)
            found = mixed(name, parameters, z, delta, relative)
            return found.value, found.value_error, (found.D, found.error + least, found.parts)
        u, (rounded, least) = unit(self._working), self._formula(i)
        delta = delta + FORMULAS * u * np.abs(z)
        low, high = slope_range(name, parameters, z - delta, z + delta)
        largest = np.maximum(np.abs(low), np.abs(high))
        centre, radius = (low + high) / 2, (high - low) / 2 + rounded * largest + least
        value = sigma(name, parameters, z)
        e = delta * largest + FORMULAS * u * np.abs(value) + least
        return value, e, (centre, radius, np.abs(centre))

    def _formula(self, i: int) -> tuple[float, float]:
        """Return the relative and the absolute error bound of a formula's slopes."""
        parameters = self._network.activations[i].parameters
        # Slopes are rounded to the type of the results, too
        rounded = FORMULAS * unit(self._working) + 2 * unit(self.stored)
        least = max(LEAST, 4 * float(self._working.tiny)) * (1 + sum(map(abs, parameters.values())))
        return rounded, least + 4 * float(self.stored.tiny)

    def _columnwise(self, i: int, z: Array, delta: Array) -> tuple[Array, float, float]:
        """Return delta and the relative error for `mixed`, and the absolute error of its slopes.

        z is (m,) or (m, B).
        """
        u, (rounded, least) = unit(self._working), self._formula(i)
        # σ takes sums of m terms: bound each term by the largest
        delta = delta + (len(z) + FORMULAS) * u * np.abs(z).max(axis=0)
        return delta, len(z) * u + rounded, least

    def _jacobian(self, slopes: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Any]:
        """Compute the block, its error bound, and a bound of the intermediate values."""
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
        return J, outer - inner + rounding + 4 * float(self.stored.tiny) * scale, scale

    def _norms(self, J: Array, radius: Array, scale: Any) -> dict[str, Enclosure]:
        """Enclose the norms of the block: they move by no more than the norm of its error."""
        k = min(J.shape)
        known = np.isfinite(J).all()
        norm = np.linalg.norm(J)
        found = {}
        for name in ("norm", "spectral_norm"):
            order = None if name == "norm" else 2
            centre = np.linalg.norm(J, order) if known else np.float64(np.nan)
            # Rounding error of the squared norm: a sum, or an eigenvalue of a matrix of sums
            square = (8 * k * k + 2 * J.size + 32) * U64 * norm**2
            root = min(np.sqrt(square), square / centre) if centre > 0 else np.sqrt(square)
            # Scale first: squares of tiny numbers would underflow
            unit_of = max(float(radius.max()), float(np.finfo(np.float64).tiny))
            moved = unit_of * np.linalg.norm(radius / unit_of)
            bound = np.asarray(moved + root + self._rounded(centre))
            found[name] = enclosed(np.asarray(centre), bound, np.maximum(norm, scale), self.stored)
        return found


def _times(D: Array, M: Array) -> Array:
    product: Array = D @ M if D.ndim == 2 else D[:, None] * M
    return product


def _nan(shape: tuple[int, ...]) -> Enclosure:
    return Enclosure(np.full(shape, np.nan), np.zeros(shape))

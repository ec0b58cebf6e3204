"""Networks from scikit-learn: a fitted estimator, or a file that skops wrote."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from colonnade.errors import NetworkError, one_line, sanitize
from colonnade.network.weights.archives import check_archive
from colonnade.network.weights.extras import import_optional
from colonnade.network.weights.loaded import Loaded
from colonnade.network.weights.steps import Dense, Scale, Sigma, Step

__all__ = ["load_skops", "names_of", "steps_of"]

# Types that an MLP keeps from its training; skops itself trusts the other types in an MLP
_TRUSTED = {
    f"sklearn.neural_network._stochastic_optimizers.{name}"
    for name in ("AdamOptimizer", "SGDOptimizer")
}
_ACTIVATIONS = {"logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "identity": "identity"}


def load_skops(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read an estimator; raise NetworkError if the file holds types that are not trusted."""
    skops = import_optional("skops.io", "sklearn")
    try:
        check_archive(file)
        content = file.read()
        others = set(skops.get_untrusted_types(data=content)) - _TRUSTED
        if others:
            raise ValueError(
                f"it holds types that are not trusted: {sanitize(', '.join(sorted(others)), 200)}; "
                "save only the MLP and its scalers"
            )
        # Ignore warnings about another scikit-learn version: its networks are stored alike
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = skops.loads(content, trusted=sorted(_TRUSTED))
    except MemoryError:
        raise
    # A damaged file makes skops raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as a skops file: {one_line(error)}"
        raise NetworkError(message) from error
    try:
        return Loaded({}, steps_of(estimator), input_names=names_of(estimator))
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None


def steps_of(estimator: Any) -> list[Step]:
    """Return the steps from X to Y of a fitted estimator.

    Raises
    ------
    NetworkError
        The estimator is not fitted, or a step is neither a network nor a scaling.
    """
    with _fitted(estimator):
        return _steps(estimator)


def names_of(estimator: Any) -> tuple[str, ...] | None:
    """Return the names of the features that an estimator was fitted to, or None.

    Raises
    ------
    NetworkError
        The estimator does not have one name for each feature.
    """
    with _fitted(estimator):
        return _names(estimator)


@contextmanager
def _fitted(estimator: Any) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RecursionError) as error:
        message = (
            f"this {sanitize(type(estimator).__name__)} is not fitted, or damaged: "
            f"{one_line(error)}; fit it first"
        )
        raise NetworkError(message) from error


def _names(estimator: Any) -> tuple[str, ...] | None:
    if "Pipeline" in _kinds(estimator):
        # Later steps receive names that scikit-learn generates
        return _names(_parts(estimator)[0])
    found = getattr(estimator, "feature_names_in_", None)
    if found is None:
        return None
    names = tuple(str(name) for name in found)
    if len(names) != estimator.n_features_in_:
        raise ValueError(f"{len(names)} names for {estimator.n_features_in_} features")
    return names


def _kinds(estimator: Any) -> set[str]:
    return {
        kind.__name__
        for kind in type(estimator).__mro__
        if kind.__module__.partition(".")[0] == "sklearn"
    }


def _parts(pipeline: Any) -> list[Any]:
    return [part for _, part in pipeline.steps if part not in (None, "passthrough")]


def _steps(estimator: Any) -> list[Step]:
    kinds = _kinds(estimator)
    if "Pipeline" in kinds:
        return [step for part in _parts(estimator) for step in _steps(part)]
    if "TransformedTargetRegressor" in kinds:
        inner = _steps(estimator.regressor_)
        scale = _scaling(estimator.transformer_)
        factor, offset = np.asarray(scale.factor), np.asarray(scale.offset)
        return [*inner, Scale(1 / factor, -offset / factor, f"{scale.text}, of the target")]
    if kinds & {"MLPRegressor", "MLPClassifier"}:
        return _network(estimator)
    return [_scaling(estimator)]


def _network(estimator: Any) -> list[Step]:
    layers: list[Step] = []
    for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        layers += [Sigma({"name": _ACTIVATIONS[estimator.activation]})] * bool(layers)
        layers.append(Dense(np.asarray(W).T, np.asarray(b)))
    last = estimator.out_activation_
    if last in ("softmax", "logistic"):
        layers.append(Scale(1.0, 0.0, f"Y is the classifier's logits, before its {last}"))
    elif last != "identity":
        raise NetworkError(
            f"its output passes through {sanitize(str(last))}; supported are identity, softmax and "
            "logistic."
        )
    return layers


def _scaling(estimator: Any) -> Scale:
    name = type(estimator).__name__
    if name in ("MinMaxScaler", "MaxAbsScaler") and getattr(estimator, "clip", False):
        raise NetworkError(f"its {name} clips, which is not affine; fit it with clip=False.")
    match name:
        case "StandardScaler" | "RobustScaler":
            centre = estimator.mean_ if name == "StandardScaler" else estimator.center_
            # A part that with_mean, with_std and so on disable is None, or present but unused
            used = (("with_mean", "with_std") if name == "StandardScaler"
                    else ("with_centering", "with_scaling"))  # fmt: skip
            mean = centre if getattr(estimator, used[0]) else 0.0
            scale = estimator.scale_ if getattr(estimator, used[1]) else 1.0
            factor = 1 / np.asarray(scale, np.float64)
            return Scale(factor, -np.asarray(mean, np.float64) * factor, name)
        case "MinMaxScaler":
            return Scale(estimator.scale_, estimator.min_, name)
        case "MaxAbsScaler":
            return Scale(1 / np.asarray(estimator.scale_, np.float64), 0.0, name)
    raise NetworkError(
        f"it holds a {sanitize(name)}; supported are MLPRegressor and MLPClassifier, after "
        "StandardScaler, MinMaxScaler, MaxAbsScaler or RobustScaler in a Pipeline, or in a "
        "TransformedTargetRegressor."
    )

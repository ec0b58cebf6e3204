"""The ONNX operators that networks are built from, one small function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import sanitize
from colonnade.network.weights.expressions import Z, apply, clip, constant
from colonnade.network.weights.onnx_values import Node, Value
from colonnade.network.weights.steps import Dense, Scale

__all__ = ["OPERATORS"]

_FLOATS = (1, 11)  # FLOAT, DOUBLE
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _single(array: NDArray[Any] | None, default: float) -> float:
    if array is None:
        return default
    if array.size != 1:
        raise ValueError(f"a constant has the shape {array.shape}; it must be a single number")
    return float(array.reshape(-1)[0])


# Layers


def _layer(value: Value, W: NDArray[Any], b: Any, into: int | None, out: int) -> Value:
    if not value.flat:
        raise ValueError("its input is not a matrix; flatten the input before it")
    if value.axis is not None and into is not None and value.axis != into:
        raise ValueError("it multiplies along the samples; it must multiply along the features")
    return Value((*value.settled(), Dense(W, b)), Z, out)


def _matmul(node: Node) -> Value:
    value, place = node.data()
    W = node.constant(1 - place)
    if W is None or W.ndim != 2:
        raise ValueError(
            f"its constant has the shape {() if W is None else W.shape}; it must be a matrix"
        )
    return _layer(value, W.T, None, 1, 1) if place == 0 else _layer(value, W, None, 0, 0)


def _gemm(node: Node) -> Value:
    value, place = node.data()
    W, C = node.constant(1 - place), node.constant(2)
    if place > 1 or W is None or W.ndim != 2:
        raise ValueError("it must be a product of X and a constant matrix")
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turned = [bool(node.whole(name, 0)) for name in ("transA", "transB")]
    # Samples are rows of the first factor and columns of the second, unless it is transposed
    into = (0 if turned[0] else 1) if place == 0 else (1 if turned[1] else 0)
    W = W.T if turned[1 - place] else W
    W = W.T if place == 0 else W
    out = 1 - place
    found = _layer(value, W if alpha == 1 else (alpha * W.astype(np.float64)).astype(W.dtype),
                   None, into, out)  # fmt: skip
    if C is None or beta == 0:
        return found
    return _shifted(found, 1.0, C if beta == 1 else (beta * C.astype(np.float64)).astype(C.dtype))


def _shifted(value: Value, factor: Any, offset: Any, text: str = "") -> Value:
    """Scale and shift the features by constants, each a number or a vector along the features."""
    axis = value.axis
    for given in (factor, offset):
        array = np.asarray(given)
        if array.size == 1:
            continue
        along = 0 if array.ndim == 2 and array.shape[1] == 1 else 1
        if array.ndim > 2 or (array.ndim == 2 and 1 not in array.shape):
            raise ValueError(f"a constant has the shape {array.shape}; it must be a vector")
        if axis is not None and axis != along:
            raise ValueError(
                f"a constant of the shape {array.shape} lies along the samples; it must lie along "
                "the features"
            )
        axis = along
    scale = Scale(np.asarray(factor).reshape(-1), np.asarray(offset).reshape(-1), text)
    return Value((*value.settled(), scale), Z, axis, value.flat)


# Arithmetic with constants, of two values, and of functions


def _both(node: Node) -> tuple[Value, Value] | None:
    """Return the two inputs of a node, or None if one is a constant."""
    first, second = node.inputs()
    if not isinstance(first, Value) or not isinstance(second, Value):
        return None
    if first.steps is not second.steps:
        raise ValueError("it joins two branches of the graph; the graph must be a chain of layers")
    return first, second


def _combined(node: Node, sign: float | None) -> Value:
    """Add, subtract or, where sign is None, multiply."""
    pair = _both(node)
    if pair is not None:
        a, b = (value.expression for value in pair)
        return replace(pair[0], expression=a * b if sign is None else a + constant(sign) * b)
    value, place = node.data()
    array, swapped = np.asarray(node.constant(1 - place)), place == 1
    bias = array.ndim > 0 and sign is not None and value.width == 1 and value.expression is Z
    if array.size > 1 or bias:
        plain = value.width is not None and value.expression is Z
        text = "" if plain and sign is not None else f"{node.op} with {array.size} constants"
        if sign is None:
            return _shifted(value, array, 0.0, text)
        if swapped:
            return _shifted(value, sign, array, text)
        return _shifted(value, 1.0, sign * array if sign != 1 else array, text)
    number = constant(_single(array, 0.0))
    if sign is None:
        return replace(value, expression=number * value.expression)
    mine, other = constant(sign if swapped else 1.0), constant(1.0 if swapped else sign)
    return replace(value, expression=mine * value.expression + other * number)


def _divided(node: Node) -> Value:
    pair = _both(node)
    if pair is not None:
        a, b = (value.expression for value in pair)
        return replace(pair[0], expression=a * apply("inverse", b))
    value, place = node.data()
    array = np.asarray(node.constant(1 - place), np.float64)
    if place == 1:
        inverse = apply("inverse", value.expression)
        return replace(value, expression=constant(_single(array, 1.0)) * inverse)
    if not np.all(array):
        raise ValueError("it divides by zero")
    if array.size == 1:
        return replace(value, expression=constant(1 / _single(array, 1.0)) * value.expression)
    return _shifted(value, 1 / array, 0.0, f"Div by {array.size} constants")


def _power(node: Node) -> Value:
    value, _place = node.data()
    exponent = _single(node.constant(1), 1.0)
    if exponent not in (2.0, 3.0):
        raise ValueError(f"the exponent {exponent:g} is not supported; it must be 2 or 3")
    square = value.expression * value.expression
    return replace(value, expression=square if exponent == 2 else square * value.expression)


def _function(name: str, *parameters: tuple[str, float]) -> Callable[[Node], Value]:
    def handle(node: Node) -> Value:
        value, _place = node.data()
        given = [node.number(key, default) for key, default in parameters]
        return replace(value, expression=apply(name, value.expression, *given))

    return handle


def _clip(node: Node) -> Value:
    value = node.first()
    if node.opset < 11:
        low, high = node.number("min", -math.inf), node.number("max", math.inf)
    else:
        low, high = _single(node.constant(1), -math.inf), _single(node.constant(2), math.inf)
    return replace(value, expression=clip(value.expression, low, high))


def _maximum(node: Node) -> Value:
    value, place = node.data()
    if len(node.inputs()) != 2 or _single(node.constant(1 - place), math.nan) != 0:
        raise ValueError("only the maximum of one value and 0 is supported")
    return replace(value, expression=apply("relu", value.expression))


def _hard_sigmoid(node: Node) -> Value:
    value, _place = node.data()
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    inner = constant(alpha) * value.expression + constant(beta)
    return replace(value, expression=clip(inner, 0.0, 1.0))


def _gelu(node: Node) -> Value:
    value, _place = node.data()
    name = {"none": "gelu", "tanh": "gelu_tanh"}[node.text("approximate", "none")]
    return replace(value, expression=apply(name, value.expression))


def _swish(node: Node) -> Value:
    value, _place = node.data()
    inner = constant(node.number("alpha", 1.0)) * value.expression
    return replace(value, expression=value.expression * apply("sigmoid", inner))


def _selu(node: Node) -> Value:
    value, _place = node.data()
    alpha, gamma = node.number("alpha", _SELU[0]), node.number("gamma", _SELU[1])
    if np.allclose((alpha, gamma), _SELU, rtol=1e-6):
        return replace(value, expression=apply("selu", value.expression))
    scaled = constant(gamma) * apply("elu", value.expression, alpha)
    return replace(value, expression=scaled)


def _prelu(node: Node) -> Value:
    value = node.first()
    slopes = node.constant(1)
    if slopes is None or slopes.size < 1 or np.any(slopes != slopes.flat[0]):
        raise ValueError("it has more than one slope; only one for all features is supported")
    expression = apply("leaky_relu", value.expression, float(slopes.flat[0]))
    return replace(value, expression=expression)


# Operators that change no number, and scalers


def _dropout(node: Node) -> Value:
    training = node.constant(2)
    if training is not None and bool(np.any(training)):
        raise ValueError("it is in training mode; export the model for inference")
    return node.first()


def _cast(node: Node) -> Value:
    if node.whole("to", 0) not in _FLOATS:
        raise ValueError("it casts to another type than float or double")
    return node.first()


def _flatten(node: Node) -> Value:
    if node.whole("axis", 1) != 1:
        raise ValueError("its axis must be 1")
    return replace(node.first(), flat=True)


def _reshape(node: Node) -> Value:
    value = node.first()
    shape = node.constant(1)
    wanted = [] if shape is None or shape.ndim != 1 or shape.size > 2 else shape.tolist()
    width = value.width
    same = width is None or (len(wanted) == 2 and wanted[1] in (-1, width))
    if len(wanted) == 2 and wanted[0] in (-1, 0) and same:
        return replace(value, flat=True)
    if wanted == [-1] and width == 1:
        return value
    raise ValueError(f"the shape {sanitize(str(wanted))} does not keep samples and features")


def _transpose(node: Node) -> Value:
    value, _place = node.data()
    if not value.flat or node.many("perm") not in ([], [1, 0]) or value.axis is None:
        raise ValueError("it must only exchange samples and features")
    return replace(value, axis=1 - value.axis)


def _batch_norm(node: Node) -> Value:
    value = node.first()
    scale, bias, mean, variance = (np.asarray(a, np.float64) for a in node.inputs()[1:5])
    factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    if node.whole("training_mode", 0) or not np.all(np.isfinite(factor)):
        raise ValueError(
            "it is in training mode, or its variance is negative; export the model for inference"
        )
    return _shifted(value, factor, bias - mean * factor, "BatchNormalization")


def _scaler(node: Node) -> Value:
    value, _place = node.data()
    offset, scale = (np.asarray(node.many(key), np.float64) for key in ("offset", "scale"))
    offset, scale = (offset if offset.size else np.zeros(1)), (scale if scale.size else np.ones(1))
    return _shifted(value, scale, -offset * scale, "Scaler")


OPERATORS: Mapping[str, Callable[[Node], Value]] = {
    "Abs": _function("abs"),
    "Add": lambda node: _combined(node, 1.0),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": _function("celu", ("alpha", 1.0)),
    "Clip": _clip,
    "Div": _divided,
    "Dropout": _dropout,
    "Elu": _function("elu", ("alpha", 1.0)),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _function("hard_swish"),
    "Identity": Node.first,
    "LeakyRelu": _function("leaky_relu", ("alpha", 0.01)),
    "Log": _function("log"),
    "MatMul": _matmul,
    "Max": _maximum,
    "Mish": _function("mish"),
    "Mul": lambda node: _combined(node, None),
    "Neg": lambda node: replace(
        node.data()[0], expression=constant(-1.0) * node.data()[0].expression
    ),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _function("inverse"),
    "Relu": _function("relu"),
    "Reshape": _reshape,
    "Selu": _selu,
    "Sigmoid": _function("sigmoid"),
    "Sin": _function("sin"),
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "Sub": lambda node: _combined(node, -1.0),
    "Swish": _swish,
    "Tanh": _function("tanh"),
    "Transpose": _transpose,
    "ai.onnx.ml.Scaler": _scaler,
}

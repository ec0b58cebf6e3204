"""Read networks from ONNX files, by walking the graph from its input to its output."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import NetworkError, one_line, sanitize
from colonnade.limits import ONNX_NODES
from colonnade.network.weights.extras import import_optional
from colonnade.network.weights.loaded import Loaded, declared_names
from colonnade.network.weights.onnx_operators import OPERATORS
from colonnade.network.weights.onnx_tensors import read_tensors
from colonnade.network.weights.onnx_values import Node, Value

__all__ = ["load_onnx"]


class _GraphError(Exception):
    """The graph is not a chain of layers."""


class _Graph:
    """The values, constants and problems of a graph, as far as it has been walked."""

    def __init__(self, constants: dict[str, NDArray[Any]], opset: int) -> None:
        self.constants = constants
        self.values: dict[str, Value] = {}
        self.problems: dict[str, str] = {}
        self.opset = opset

    def walk(self, node: Any) -> None:
        """Determine the output of a node: a value, a constant or a problem."""
        name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        problems = [self.problems[given] for given in node.input if given in self.problems]
        if not problems and not any(given in self.values for given in node.input):
            self._constant(node, name)
            return
        try:
            if problems:
                raise ValueError(problems[0])
            self.values[node.output[0]] = self._value(node, name)
        except ValueError as error:
            # Omitted inputs and outputs both have an empty name: record no problem under it
            self.problems.update(dict.fromkeys(filter(None, node.output), str(error)))

    def _value(self, node: Any, name: str) -> Value:
        if name not in OPERATORS:
            raise ValueError(
                f"the operator {sanitize(name)} is not supported; a graph may hold a chain of "
                "dense layers, activations and scalers"
            )
        given = Node(node, self.values, self.constants, self.opset)
        try:
            return OPERATORS[name](given)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            message = "its inputs or attributes are not supported"
            raise ValueError(f"{name}: {message}") from error

    def _constant(self, node: Any, name: str) -> None:
        """Compute a constant that is only passed on; another one fails where a node uses it."""
        if name in ("Identity", "Cast", "Transpose") and node.input[0] in self.constants:
            array = self.constants[node.input[0]]
            permuted = {a.name: list(a.ints) for a in node.attribute}.get("perm")
            if name == "Transpose":
                array = array.transpose(permuted or None)
            self.constants[node.output[0]] = array


def load_onnx(path: str | Path, file: IO[bytes], folder: Path | None) -> Loaded:
    """Read the layers, activations and scalers of a graph.

    Raises
    ------
    NetworkError
        The file cannot be read, or its graph is not a chain of layers.
    """
    onnx = import_optional("onnx", "onnx")
    try:
        return _read(onnx.load_model_from_string(file.read()), folder)
    except MemoryError:
        raise
    except _GraphError as error:
        raise NetworkError(f"{path}: {error}") from error
    # protobuf raises its own types of error
    except Exception as error:
        raise NetworkError(f"{path}: this cannot be read as ONNX: {one_line(error)}") from error


def _read(model: Any, folder: Path | None) -> Loaded:
    graph = model.graph
    if len(graph.node) > ONNX_NODES:
        raise ValueError(f"it has {len(graph.node):,} nodes, too many for a chain of layers")
    constants = read_tensors(_tensors(graph), folder)
    constants |= {name: np.asarray(numbers) for name, numbers in _numbers(graph)}
    named = {t.name: constants[t.name] for t in graph.initializer if t.name in constants}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    walked = _Graph(constants, int(opsets.get("", opsets.get("ai.onnx", 1))))
    inputs = [given for given in graph.input if given.name not in named]
    for what, given in (("inputs", inputs), ("outputs", graph.output)):
        if len(given) != 1:
            names = ", ".join(sanitize(value.name) for value in given[:12]) or "none"
            raise _GraphError(
                f"its graph has the {what} {names}; a network must have exactly one. Export it "
                "again."
            )
    dimensions = inputs[0].type.tensor_type.shape.dim
    walked.values[inputs[0].name] = Value(flat=len(dimensions) <= 2)
    for node in graph.node:
        walked.walk(node)
    output = graph.output[0].name
    problem = walked.problems.get(output, "its output does not depend on its input")
    if output in walked.values:
        try:
            steps = list(walked.values[output].settled())
            said = {entry.key: entry.value for entry in model.metadata_props}
            return Loaded(named, steps, input_names=declared_names(said))
        except ValueError as error:
            problem = str(error)
    raise _GraphError(f"{problem}.")


def _tensors(graph: Any) -> list[tuple[str, Any]]:
    found = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            found += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    if len(dict(found)) < len(found):
        raise ValueError("two tensors of its graph have the same name")
    return found


def _numbers(graph: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for a in node.attribute:
                given = {"value_float": a.f, "value_int": a.i, "value_floats": list(a.floats),
                         "value_ints": list(a.ints)}  # fmt: skip
                found += [(node.output[0], given[a.name])] if a.name in given else []
    return found

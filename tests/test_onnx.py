"""Networks from ONNX graphs: Y is the reference evaluator's, or that of what exported them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from colonnade import Network
from support import M, N, Q, check_network, make_columns, make_network, refused_network

DATA = Path(__file__).parent / "data"


def exported(kind: str) -> list[str]:
    with np.load(DATA / "torch-networks.npz") as archive:
        return sorted({k.rpartition("/")[0] for k in archive.files if f"{kind}.onnx/" in k})


@pytest.mark.parametrize("name", [*exported("torchscript"), *exported("dynamo")])
def test_torch_exports(torch_files, name: str) -> None:
    folder, told = torch_files
    if name == "softplus-dynamo.onnx":
        # a threshold beyond which it is z: another function
        assert "the operator Greater is not supported" in refused_network(folder / name)
        return
    network = Network.load(folder / name)
    check_network(network, told[name]["X"], told[name]["Y"], told[name]["J"])
    activation = name.partition("-")[0]
    known = {"batch_norm": "silu", "columns": "tanh"}.get(activation, activation)
    assert network.activation.name == known
    assert set(network.folded) == ({"BatchNormalization"} if activation == "batch_norm" else set())


# ONNX: graphs of onnx's own helper, its reference evaluator's Y


def graph(
    nodes: list[Any], arrays: dict[str, np.ndarray], width: Any = N, opset: int = 20
) -> onnx.ModelProto:
    shape = list(width) if isinstance(width, tuple) else ["p", width]
    dtype = TensorProto.DOUBLE if arrays["W"].dtype == np.float64 else TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=domains, ir_version=9)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """An operator; a dash stands for an input or an output that is left out."""
    given, made = ([name.strip("-") for name in names.split()] for names in (inputs, outputs))
    return helper.make_node(op, given, made, **attributes)


def weights(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    network = make_network(dtype=dtype)
    vectors = np.random.default_rng(5).uniform(0.5, 2.0, (2, N)).astype(dtype)
    return {"W": network.W1, "b": network.b1, "U": network.W2, "c": network.b2,
            "mean": vectors[0], "std": vectors[1]}  # fmt: skip


FIRST = node("Gemm", "x W b", "z", transB=1)
LAST = node("Gemm", "s U c", "y", transB=1)


def _array(number: float) -> np.ndarray:
    return np.asarray(number, bool if isinstance(number, bool) else np.float32)


def constants(**numbers: float) -> list[Any]:
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(_array(number)))
        for name, number in numbers.items()
    ]


def predicted(model: onnx.ModelProto, X: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ReferenceEvaluator(model).run(None, {"x": X})[0])


def brief(given: Any) -> str:
    """Operators, for the name of a test."""
    if isinstance(given, list):
        return "-".join(one.op_type for one in given if one.op_type != "Constant")
    return str(given)[:40]


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "w.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# Between FIRST and LAST; what it is read as, if that is not to be refused
BETWEEN: list[tuple[list[Any], Any]] = [
    ([node("Tanh", "z", "s")], "tanh"),
    ([node("Identity", "z", "i"), node("Dropout", "i", "d"), node("Relu", "d", "s")], "relu"),
    ([node("Cast", "z", "i", to=1), node("Softsign", "i", "s")], "softsign"),
    ([node("LeakyRelu", "z", "s")], ("leaky_relu", 0.01)),
    ([node("LeakyRelu", "z", "s", alpha=0.3)], ("leaky_relu", 0.3)),
    ([node("Elu", "z", "s", alpha=0.7)], ("elu", 0.7)),
    ([node("Selu", "z", "s")], "selu"),
    ([node("Selu", "z", "s", alpha=1.5, gamma=2.0)], ("elu", 1.5)),
    ([node("Celu", "z", "s", alpha=0.7)], ("celu", 0.7)),
    ([node("HardSigmoid", "z", "s")], ("hardtanh", -2.5, 2.5)),
    ([node("HardSigmoid", "z", "s", alpha=1 / 6)], "hard_sigmoid"),
    ([node("HardSwish", "z", "s")], "hard_swish"),
    ([node("Gelu", "z", "s")], "gelu"),
    ([node("Gelu", "z", "s", approximate="tanh")], "gelu_tanh"),
    ([node("Mish", "z", "s")], "mish"),
    ([node("Sin", "z", "s")], "sin"),
    ([*constants(low=0, high=6), node("Clip", "z low high", "s")], "relu6"),
    ([*constants(low=-2, high=0.5), node("Clip", "z low high", "s")], ("hardtanh", -2, 0.5)),
    ([*constants(low=0), node("Clip", "z low", "s")], "relu"),
    # An input that is left out has an empty name, before one that is there or at the end
    ([*constants(low=0), node("Clip", "z low -", "s")], "relu"),
    ([*constants(training=False), node("Dropout", "z - training", "i"), node("Relu", "i", "s")],
     "relu"),
    ([*constants(zero=0), node("Max", "zero z", "s")], "relu"),
    ([*constants(slope=0.2), node("PRelu", "z slope", "s")], ("leaky_relu", 0.2)),
    ([node("Sigmoid", "z", "g"), node("Mul", "g z", "s")], "silu"),
    ([*constants(k=1.702), node("Mul", "z k", "i"), node("Sigmoid", "i", "s")], "sigmoid"),
    ([node("Softplus", "z", "i"), node("Tanh", "i", "j"), node("Mul", "z j", "s")], "mish"),
    ([*constants(r=2**0.5, one=1, half=0.5), node("Div", "z r", "i"), node("Erf", "i", "e"),
      node("Add", "e one", "f"), node("Mul", "f half", "g"), node("Mul", "g z", "s")], "gelu"),
    ([*constants(r=0.5**0.5, half=0.5), node("Mul", "r z", "i"), node("Erf", "i", "e"),
      node("Mul", "half z", "h"), node("Mul", "e h", "g"), node("Add", "g h", "s")], "gelu"),
    ([*constants(a=0.044715, k=(2 / np.pi) ** 0.5, one=1, half=0.5, three=3),
      node("Pow", "z three", "t"), node("Mul", "a t", "u"), node("Add", "z u", "v"),
      node("Mul", "v k", "w"), node("Tanh", "w", "h"), node("Add", "h one", "g"),
      node("Mul", "z g", "f"), node("Mul", "f half", "s")], "gelu_tanh"),
    ([*constants(three=3, low=0, high=6), node("Add", "z three", "i"),
      node("Clip", "i low high", "j"), node("Mul", "z j", "k"), node("Div", "k high", "s")],
     "hard_swish"),
    ([node("Neg", "z", "i"), node("Exp", "i", "j"), *constants(one=1), node("Add", "j one", "k"),
      node("Reciprocal", "k", "s")], "sigmoid"),
    ([node("Tanh", "z", "i"), node("Sub", "z i", "s")], "tanhshrink"),
    ([node("Sigmoid", "z", "i"), node("Log", "i", "s")], "log_sigmoid"),
    ([*constants(two=2), node("Pow", "z two", "i"), node("Neg", "i", "j"), node("Exp", "j", "s")],
     "gaussian"),
    ([node("Tanh", "z", "i"), *constants(a=1.7, d=-0.3), node("Mul", "i a", "j"),
      node("Add", "d j", "s")], "tanh"),
    ([node("Tanh", "z", "i"), node("BatchNormalization", "i v1 v2 v3 v4", "s")], "tanh"),
    ([node("BatchNormalization", "z v1 v2 v3 v4", "i"), node("Tanh", "i", "s")], "tanh"),
    ([node("Tanh", "z", "t"), node("Mul", "t v1", "i"), node("Sub", "v2 i", "s")], "tanh"),
    ([node("Identity", "z", "s")], "identity"),
]  # fmt: skip


def per_unit() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(6).uniform(0.5, 2.0, (4, M)).astype(np.float32)
    return {f"v{i}": row for i, row in enumerate(numbers, 1)}


@pytest.mark.parametrize(("nodes", "told"), BETWEEN, ids=brief)
def test_onnx_activations(tmp_path, nodes: list[Any], told: Any) -> None:
    model = graph([FIRST, *nodes, LAST], weights() | per_unit())
    X = make_columns()
    network = Network.load(saved(tmp_path, model))
    check_network(network, X, predicted(model, X.T).T)
    name, *parameters = [told] if isinstance(told, str) else told
    assert network.activation.name == name
    found = [value for _, value in network.activation.settings]
    if parameters:
        assert found == pytest.approx(parameters, rel=1e-6)


def squared(times: int) -> list[Any]:
    return [node("Mul", f"{'z' if not i else f'q{i}'} {'z' if not i else f'q{i}'}",
                 "s" if i == times - 1 else f"q{i + 1}") for i in range(times)]  # fmt: skip


def test_onnx_of_a_deeper_network(tmp_path) -> None:
    between = [node("Tanh", "z", "i"), node("Gemm", "i V b", "j"), node("Relu", "j", "s")]
    V = np.random.default_rng(11).standard_normal((M, M)).astype(np.float32)
    arrays = weights() | {"V": V}
    network = Network.load(saved(tmp_path, graph([FIRST, *between, LAST], arrays)))
    assert network.sizes == (N, M, M, Q)
    assert [sigma.name for sigma in network.activations] == ["tanh", "relu"]
    # Gemm takes V as it is: (in, out)
    for layer, (W, b) in zip(network.layers, (("W", "b"), ("V", "b"), ("U", "c")), strict=True):
        np.testing.assert_array_equal(layer.W, arrays[W].T if W == "V" else arrays[W])
        np.testing.assert_array_equal(layer.b, arrays[b])


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([node("Softmax", "z", "s")], "the operator Softmax is not supported"),
        ([node("Abs", "z", "s")], "Gemm: σ(z) = abs(z), which is not a known activation"),
        ([node("ThresholdedRelu", "z", "s")], "the operator ThresholdedRelu"),
        ([node("Sigmoid", "z", "g"), *constants(k=1.7), node("Mul", "z k", "i"),
          node("Mul", "g i", "s")], "σ(z) = 1.7*sigmoid(z)*z, which is not a known activation"),
        ([node("Erf", "z", "s")], "σ(z) = erf(z), which is not a known activation"),
        ([node("PRelu", "z b", "s")], "PRelu: it has more than one slope"),
        ([node("Gelu", "z", "s", domain="com.microsoft")], "the operator com.microsoft.Gelu"),
        ([node("Cast", "z", "i", to=10), node("Relu", "i", "s")], "to another type than float"),
        ([node("MatMul", "z V", "i"), node("Add", "i z", "s")], "it joins two branches"),
        ([*constants(high=6), node("Clip", "z - high", "s")], "σ(z) = clip(z;-inf;6), which"),
        ([*constants(low=1), node("Clip", "z low", "s")], "σ(z) = clip(z;1;inf), which is not"),
        ([node("Clip", "z v1", "s")], "a constant has the shape (7,); it must be a single"),
        ([node("Tanh", "z", "i"), node("Relu", "i", "s")], "σ(z) = relu(tanh(z))"),
        (squared(12), "its formula is longer than that of any"),
        ([node("Tanh", "z", "s"), node("Tanh", "z", "y2")], None),
        # What the output does not depend on, and an output that is left out
        ([*constants(yes=True, low=0), node("Dropout", "z - yes", "y2 -"),
          node("Clip", "z low -", "s")], None),
        ([*constants(yes=True), node("Dropout", "z - yes", "i -"), node("Relu", "i", "s")],
         "Dropout: it is in training mode"),
        ([node("Tanh", "nothing", "s")], "its output does not depend on its input"),
        ([node("Softplus", "z", "s"), node("Softmax", "z", "y2")], None),
        ([node("Transpose", "z", "s")], "Gemm: it multiplies along the samples"),
        ([node("Shape", "z", "n"), node("Reshape", "z n", "s")], "the operator Shape"),
    ],
    ids=brief,
)  # fmt: skip
def test_onnx_graphs_that_are_none(tmp_path, nodes: list[Any], problem: str | None) -> None:
    arrays = weights() | per_unit() | {"V": np.eye(M, dtype=np.float32)}
    path = saved(tmp_path, graph([FIRST, *nodes, LAST], arrays))
    if problem is None:  # what the output does not depend on
        Network.load(path)
        return
    assert problem in refused_network(path)


@pytest.mark.parametrize(
    ("nodes", "folded"),
    [
        ([node("MatMul", "x Wt", "i"), node("Add", "i b", "z"), node("Tanh", "z", "s"),
          node("MatMul", "s Ut", "j"), node("Add", "c j", "y")], ()),
        ([node("Gemm", "x Wt b", "z", alpha=0.5, beta=2.0), node("Tanh", "z", "s"),
          node("Gemm", "s Ut", "y")], ()),
        ([node("Sub", "x mean", "i"), node("Div", "i std", "j"),
          node("Gemm", "j W b", "z", transB=1), node("Tanh", "z", "s"), LAST],
         ("Sub with 5 constants", "Div by 5 constants")),
        ([node("Scaler", "x", "i", domain="ai.onnx.ml", offset=[1.0, 2, 3, 4, 5],
               scale=[1.0, 2, 0.5, 1, 3]), node("Gemm", "i W b", "z", transB=1),
          node("Tanh", "z", "s"), LAST], ("Scaler",)),
        ([FIRST, node("Tanh", "z", "s"), node("Gemm", "s U c", "j", transB=1),
          node("Mul", "j outstd", "k"), node("Add", "k outmean", "y")], ("Mul with 3 constants",)),
        ([node("Flatten", "x", "i"), node("Gemm", "i W b", "z", transB=1), node("Tanh", "z", "s"),
          LAST], ()),
        ([node("Reshape", "x flat", "i"), node("Gemm", "i W b", "z", transB=1),
          node("Tanh", "z", "s"), LAST], ()),
        ([node("Transpose", "W", "V"), node("MatMul", "x V", "i"), node("Add", "i b", "z"),
          node("Tanh", "z", "s"), LAST], ()),
    ],
    ids=brief,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_onnx_layers_and_scalers(tmp_path, nodes, folded, dtype) -> None:
    if dtype == np.float64 and nodes[0].op_type == "Scaler":
        pytest.skip("its result is float32")
    arrays = weights(dtype)
    arrays |= {
        "Wt": arrays["W"].T.copy(),
        "Ut": arrays["U"].T.copy(),
        "flat": np.array([-1, N]),
        "outstd": np.array([0.3, 3.0, 7.0], dtype),
        "outmean": np.array([9, -1, 2.0], dtype),
    }
    model = graph(nodes, arrays)
    X = make_columns(dtype=dtype)
    network = Network.load(saved(tmp_path, model))
    assert network.dtype == dtype
    assert network.folded == folded
    check_network(network, X, predicted(model, X.T).T)


def test_onnx_with_samples_as_columns(tmp_path) -> None:
    arrays = weights()
    arrays |= {"b": arrays["b"][:, None], "c": arrays["c"][:, None]}
    nodes = [node("MatMul", "W x", "i"), node("Add", "i b", "z"), node("Tanh", "z", "s"),
             node("Gemm", "U s c", "y")]  # fmt: skip
    model, X = graph(nodes, arrays, (N, "p")), make_columns()
    check_network(Network.load(saved(tmp_path, model)), X, predicted(model, X))
    turned = [node("Gemm", "x W b", "z", transA=1, transB=1), node("Tanh", "z", "s"), LAST]
    model = graph(turned, weights(), (N, "p"))
    check_network(Network.load(saved(tmp_path, model)), X, predicted(model, X).T)


def test_onnx_of_images_is_flattened_first(tmp_path) -> None:
    images = (1, 1, 1, N)
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Tanh", "z", "s"), LAST]
    assert "flatten the input" in refused_network(saved(tmp_path, graph(nodes, weights(), images)))
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f W b", "z", transB=1), *nodes[1:]]
    assert Network.load(saved(tmp_path, graph(nodes, weights(), images))).n == N


def test_onnx_of_several_outputs(tmp_path) -> None:
    model = graph([FIRST, node("Tanh", "z", "s"), LAST], weights())
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, None))
    assert "its graph has the outputs y, s; a network must have exactly one" in refused_network(
        saved(tmp_path, model)
    )


def test_onnx_external_data(tmp_path) -> None:
    model = graph([FIRST, node("Tanh", "z", "s"), LAST], weights())
    network, X = Network.load(saved(tmp_path, model)), make_columns()
    Y = predicted(model, X.T).T
    path = tmp_path / "model" / "w.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    found = Network.load(path)
    assert found.fingerprint == network.fingerprint
    check_network(found, X, Y)

"""Make the networks of torch in this folder, with what torch says of them.

For libraries that are too large to be installed for the tests: run it with torch, onnx,
onnxscript and skl2onnx installed. Each network has its X, its Y and its Jacobians in a .npz beside
it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

FOLDER = Path(__file__).parent
N, M, Q, P = 5, 7, 3, 2

HIDDEN: dict[str, nn.Module] = {
    "celu": nn.CELU(0.7),
    "elu": nn.ELU(0.5),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "hard_sigmoid": nn.Hardsigmoid(),
    "hard_swish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(-0.5, 0.75),
    "leaky_relu": nn.LeakyReLU(0.2),
    "log_sigmoid": nn.LogSigmoid(),
    "mish": nn.Mish(),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "selu": nn.SELU(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(1.5),
    "softsign": nn.Softsign(),
    "tanh": nn.Tanh(),
    "tanhshrink": nn.Tanhshrink(),
}
# Where the two exporters write another graph
WITH_DYNAMO = ("gelu", "hard_swish", "silu", "softplus")


class Columns(nn.Module):
    """The mathematics as it is written: samples are columns."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(M, N)), nn.Parameter(torch.randn(M, 1))
        self.U, self.c = nn.Parameter(torch.randn(Q, M)), nn.Parameter(torch.randn(Q, 1))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.U @ torch.tanh(self.W @ X + self.b) + self.c


def network(activation: nn.Module, *, scaled: bool = False) -> nn.Sequential:
    norms = [nn.BatchNorm1d(width) for width in (N, M)] if scaled else []
    for norm in norms:
        width = norm.num_features
        norm.running_mean, norm.running_var = torch.randn(width), torch.rand(width) + 0.5
        norm.weight.data, norm.bias.data = torch.randn(width), torch.randn(width)
    layers = [*norms[:1], nn.Linear(N, M), *norms[1:], activation, nn.Dropout(0.3), nn.Linear(M, Q)]
    return nn.Sequential(*layers).eval()


def exported(model: nn.Module, X: torch.Tensor, kind: str) -> bytes:
    file = io.BytesIO()
    dynamo = kind == "dynamo"
    options: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("p")},)}
    if not dynamo:
        # 17 has neither Gelu nor Mish
        options = {"dynamic_axes": {"x": {0: "p"}}, "opset_version": 17}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (X,), file, input_names=["x"], output_names=["y"], dynamo=dynamo, **options
        )
    kept = onnx.load_model_from_string(file.getvalue())
    # where each node comes from takes most of the bytes
    for node in kept.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    kept.ClearField("metadata_props")
    return kept.SerializeToString()


def truth(model: nn.Module, X: torch.Tensor) -> dict[str, np.ndarray]:
    """X and Y with samples as columns, and a Jacobian of each."""
    with torch.no_grad():
        Y = model(X)
    J = torch.func.vmap(torch.func.jacrev(lambda x: model(x[None])[0]))(X)
    return {"X": X.T.numpy(), "Y": Y.T.numpy(), "J": J.detach().numpy()}


def main() -> None:
    torch.manual_seed(0)
    X = torch.randn(P, N)
    found: dict[str, np.ndarray] = {}

    def keep(name: str, content: bytes, of: dict[str, np.ndarray]) -> None:
        found.update({f"{name}/{key}": value for key, value in of.items()})
        found[f"{name}/file"] = np.frombuffer(content, np.uint8)

    for name, activation in HIDDEN.items():
        for kind in ("torchscript", *["dynamo"] * (name in WITH_DYNAMO)):
            model = network(activation)
            keep(f"{name}-{kind}.onnx", exported(model, X, kind), truth(model, X))
    for kind in ("torchscript", "dynamo"):
        model = network(nn.SiLU(), scaled=True)
        keep(f"batch_norm-{kind}.onnx", exported(model, X, kind), truth(model, X))
    columns = Columns()
    with torch.no_grad():
        Y = columns(X.T)
    J = torch.func.vmap(torch.func.jacrev(lambda x: columns(x[:, None])[:, 0]))(X).detach()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(columns, (X.T,), file, dynamo=False)
    of = {"X": X.T.numpy(), "Y": Y.numpy(), "J": J.numpy()}
    keep("columns-torchscript.onnx", file.getvalue(), of)

    for name, dtype in (("state_dict.pt", torch.float32), ("checkpoint.pth", torch.bfloat16)):
        model = network(nn.Tanh()).to(dtype)
        state = model.state_dict()
        file = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3} if name.endswith("pth") else state, file)
        keep(name, file.getvalue(), truth(model.float(), X))
    for name, content in (("module.pt", model), ("epoch.pt", {"step": 3})):
        file = io.BytesIO()
        torch.save(content, file)
        keep(name, file.getvalue(), {})
    np.savez_compressed(FOLDER / "torch-networks.npz", **found)


if __name__ == "__main__":
    main()

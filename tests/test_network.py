"""The four arrays and σ: what is taken for a network, from which file, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from colonnade import Network, activation
from colonnade.errors import NetworkError, UsageError
from support import M, N, Q, make_network

Arrays = dict[str, np.ndarray]


@pytest.fixture
def arrays(network: Network) -> Arrays:
    return {name: getattr(network, name) for name in ARRAYS}


def write_safetensors(path: Path, arrays: Arrays) -> None:
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)


def write_npz(path: Path, arrays: Arrays) -> None:
    np.savez(path, **arrays)


def write_compressed(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, **arrays)


FORMATS = {"a.npz": write_npz, "b.npz": write_compressed, "C.NPZ": write_npz,
           "a.safetensors": write_safetensors}  # fmt: skip


@pytest.fixture(params=FORMATS)
def saved(request, tmp_path, monkeypatch) -> Callable[[Arrays], str]:
    """Save arrays in each of the formats; the file's name alone says where."""
    monkeypatch.chdir(tmp_path)

    def save(arrays: Arrays) -> str:
        with Path(request.param).open("wb") as file:  # np.savez would add .npz to C.NPZ
            buffer = file if request.param.lower().endswith(".npz") else Path(request.param)
            FORMATS[request.param](buffer, arrays)
        return request.param

    return save


ARRAYS = ("W1", "b1", "W2", "b2")


def assert_same(network: Network, arrays: Arrays, dtype: Any = np.float32) -> None:
    for name in ARRAYS:
        found = getattr(network, name)
        assert found.dtype == dtype
        assert found.flags.c_contiguous
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, arrays[name])


def refused(path: str | Path, names: dict[str, str] | None = None) -> str:
    with pytest.raises(NetworkError) as caught:
        Network.load(path, "tanh", names)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "unsafely" not in text  # NumPy's advice for what is no archive
    return text.removeprefix(f"{path}: ")


FOREIGN = {"W1": "fc1.weight", "b1": "fc1.bias", "W2": "fc2.weight", "b2": "fc2.bias"}


def foreign(arrays: Arrays) -> Arrays:
    # the second layer first: neither the names nor their order tell
    return {FOREIGN[name]: arrays[name] for name in reversed(ARRAYS)}


def test_by_its_own_names(saved, arrays) -> None:
    network = Network.load(saved(arrays | {"step": np.array(3.0)}), "tanh")
    assert_same(network, arrays)
    assert (network.n, network.m, network.q) == (N, M, Q)


def test_by_shape(saved, arrays) -> None:
    assert_same(Network.load(saved(foreign(arrays)), "tanh"), arrays)


def test_by_given_names(saved, arrays) -> None:
    path = saved(foreign(arrays) | {"step": np.array([[3.0]]), "W1": np.ones((2, 2))})
    assert_same(Network.load(path, "tanh", FOREIGN), arrays)
    without = {name: FOREIGN[name] for name in ("W1", "W2", "b2")}
    assert_same(Network.load(path, "tanh", without), arrays | {"b1": np.zeros(M)})


@pytest.mark.parametrize("kept", [(), ("b1",), ("b2",)], ids=str)
@pytest.mark.parametrize("rename", [dict, foreign])
def test_absent_biases_are_zero(saved, arrays, kept, rename) -> None:
    zeros = arrays | {"b1": np.zeros(M, np.float32), "b2": np.zeros(Q, np.float32)}
    left = {name: arrays[name] for name in arrays if name[0] == "W" or name in kept}
    expected = zeros | left
    renamed = rename(expected)
    present = {
        new: array for new, array in renamed.items() if any(array is a for a in left.values())
    }
    assert_same(Network.load(saved(present), "tanh"), expected)


def shaped(**shapes: tuple[int, ...]) -> Arrays:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        (shaped(a=(7, 5), b=(7,), c=(5, 7), d=(5,)), "in more than one way"),  # n == q
        (shaped(a=(7, 5), c=(7, 7), b=(7,)), "in more than one way"),  # m == q, one bias
        (shaped(a=(7, 5), b=(7,), c=(7, 3), d=(3,)), "in no way"),  # W2 stored m × q
        (shaped(a=(7, 5), b=(5,), c=(3, 7), d=(3,)), "in no way"),
        (
            shaped(a=(7, 5), b=(7,), c=(3, 7), d=(3,), e=(2,)),
            "for each layer, two with one hidden layer",
        ),
        (shaped(a=(7, 5), b=(7,), c=(3, 7), d=(3,), e=(1, 1, 1)), "a matrix for each layer"),
        (shaped(a=(7, 5), b=(7,), c=(7, 7), d=(7,), e=(3, 7), f=(3,)), "in more than one way"),
        (shaped(a=(7, 5), b=(7,), c=(11, 7), d=(2, 11), e=(3,)), "in no way"),
        (shaped(**{f"a{i}": (i + 2, i + 1) for i in range(9)}), "of more than 8 layers"),
        (shaped(W1=(7, 5), b1=(7,), W2=(3, 7), scale=(3,)), "there is scale: another layer"),
        (shaped(W1=(7, 5), b1=(7,), W2=(7, 7), b2=(7,), W4=(3, 7)), "there is W4: another layer"),
    ],
)
def test_ambiguous_files_ask_for_names(saved, arrays, problem) -> None:
    text = refused(saved(arrays))
    assert problem in text
    for name, array in arrays.items():
        assert f"{name} {array.shape} float32" in text
    assert text.endswith("Say which is which with network.names: {W1: …, b1: …, W2: …, b2: …}.")


def test_a_scaling_beside_the_weights_is_named_as_one(saved, arrays) -> None:
    scaling = {"mean": np.arange(N, dtype=np.float32), "std": np.full(N, 2, np.float32)}
    for layers in (arrays, foreign(arrays)):
        path = saved(layers | scaling)
        text = refused(path)
        assert "named with network.input_mean and network.input_std, one of Y with" in text
        assert "network.output_mean and network.output_std. Say which is which with" in text
        # What it advises does
        found = Network.load(path, "tanh", input_mean="mean", input_std="std")
        np.testing.assert_allclose(found.W1, arrays["W1"] / 2, rtol=1e-6)


TRANSPOSED = (
    f"W2 has {Q} columns where W1 has {N} rows (hidden units); "
    "both may be stored input × output: transpose them."
)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        (shaped(W2=(M, Q)), f"W2 has {Q} columns where W1 has {M} rows (hidden units)."),
        (shaped(W1=(N, M), W2=(M, Q), b1=(N,)), TRANSPOSED),
        (shaped(W1=(Q, M), W2=(M, N)), f"W2 has {N} columns where W1 has {Q} rows"),  # swapped
        (shaped(W1=(M,)), ""),
        (shaped(W2=(1, Q, M)), ""),
        (shaped(b1=(M, 1)), ""),
        (shaped(b1=(Q,), b2=(M,)), ""),
        (shaped(b2=()), ""),
        (shaped(W1=(M, 0)), ""),
        (shaped(W1=(0, N), b1=(0,), W2=(Q, 0)), ""),
        (shaped(W2=(0, M), b2=(0,)), ""),
        (shaped(b1=(0,)), ""),
    ],
)
def test_wrong_shapes(saved, arrays, changes, hint) -> None:
    arrays |= changes
    text = refused(saved(arrays))
    described = ", ".join(f"{name} {arrays[name].shape} float32" for name in ARRAYS)
    expected = (
        "W1 (m, n), b1 (m,), W2 (q, m), b2 (q,), or more layers of that kind, none of them empty."
    )
    assert text.startswith("these shapes are not those of a network: ")
    assert f"{described}; expected {expected}{' ' * bool(hint)}{hint}" in text


CHECK = "Check the training, or the export, of this network."


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(saved, arrays, name, wrong) -> None:
    spoilt = arrays[name].copy()
    spoilt.flat[-1] = wrong
    text = refused(saved(arrays | {name: spoilt}))
    count = f"1 of {spoilt.size}"
    assert text == f"{name} holds NaN or infinite values, {count}; weights must be finite. {CHECK}"


@pytest.mark.parametrize("dtype", ["c8", "c16", "bool", "U3", "S3", "M8[s]", "m8[s]", "g", "f4,f4"])
def test_wrong_dtypes(arrays, dtype, tmp_path) -> None:
    np.savez(tmp_path / "w.npz", **(arrays | {"b1": np.zeros(M, dtype)}))
    shown = np.dtype(dtype)
    assert refused(tmp_path / "w.npz") == (
        f"b1 is of type {shown}; weights must be real numbers of up to 64 bits."
    )


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("f4", "f4", "f4", "f4"), "f4"), (("f8", "f8", "f8", "f8"), "f8"),
        (("f2", "f2", "f2", "f2"), "f4"), (("f4", "f4", "f8", "f4"), "f8"),
        (("f4", "f2", "f4", "f2"), "f4"), (("i1", "u1", "i2", "u2"), "f4"),
        (("f4", "i4", "f4", "f4"), "f8"), (("i8", "i8", "i8", "u8"), "f8"),
        ((">f4", ">f4", "<f4", ">f2"), "f4"), (("<f4", ">f8", "f4", "f4"), "f8"),
    ],
)  # fmt: skip
def test_dtypes(arrays, dtypes, expected, tmp_path) -> None:
    whole = {name: np.round(4 * arrays[name]) for name in ARRAYS}
    given = {
        name: abs(whole[name]).astype(dtype) for name, dtype in zip(ARRAYS, dtypes, strict=True)
    }
    np.savez(tmp_path / "w.npz", **given)
    network = Network.load(tmp_path / "w.npz", "tanh")
    assert network.dtype == np.dtype(expected)
    assert network.dtype.isnative
    assert_same(network, {name: abs(array) for name, array in whole.items()}, expected)
    # absent biases have no say
    bare = Network(given["W1"], None, given["W2"], None, "tanh")
    assert bare.dtype == np.result_type(np.float32, given["W1"], given["W2"])


def raw_safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_bfloat16(arrays, tmp_path) -> None:
    upper = {name: array.view(np.uint32) >> 16 for name, array in arrays.items()}
    path = tmp_path / "w.safetensors"
    path.write_bytes(
        raw_safetensors(
            {name: ("BF16", a.shape, a.astype("<u2").tobytes()) for name, a in upper.items()}
        )
    )
    rounded = {name: (a << 16).astype(np.uint32).view(np.float32) for name, a in upper.items()}
    assert all(abs(rounded[name] - arrays[name]).max() > 0 for name in ARRAYS)
    assert_same(Network.load(path, "tanh"), rounded)


def test_safetensors_of_other_types(arrays, tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {name: ("F32", a.shape, a.tobytes()) for name, a in arrays.items()}
    path.write_bytes(raw_safetensors(tensors | {"b1": ("F8_E4M3", (M,), bytes(M))}))
    assert "this cannot be read as safetensors: b1 is of type F8_E4M3; save" in refused(path)
    path.write_bytes(raw_safetensors(tensors | {"b1": ("BOOL", (M,), bytes(M))}))
    assert "b1 is of type bool" in refused(path)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"W1": "a", "W2": "x", "b1": "y"}, "asks for W2 = 'x', b1 = 'y'; the file holds a, b, c."),
        ({"W2": "a"}, "network.names gives W2; it must give W1, W2 and so on without a gap"),
        ({"W1": "a", "W2": "b", "w3": "c"}, "network.names gives W1, W2, w3; it must give"),
        ({"W1": "a", "W3": "b"}, "network.names gives W1, W3; it must give"),
        ({"W1": "a", "W2": "a"}, f"W1 ({M}, {N}) float32, W2 ({M}, {N}) float32; expected W1 (m"),
    ],
)  # fmt: skip
def test_wrong_names(saved, arrays, names, problem) -> None:
    path = saved({"a": arrays["W1"], "b": arrays["W2"], "c": arrays["b1"]})
    assert problem in refused(path, names)


class Evil:
    """Unpickled, it makes a directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("pwned"),)


@pytest.mark.parametrize("name", ["b1", "step"])
def test_pickles_are_never_loaded(arrays, name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", **arrays, **{} if name in arrays else {name: np.array([Evil()], object)})
    if name in arrays:
        np.savez("w.npz", **(arrays | {name: np.array([Evil()] * M, object)}))
    Path("p.npz").write_bytes(pickle.dumps(Evil()))
    assert "Object arrays cannot be loaded" in refused("w.npz")
    assert "it is not a zip archive" in refused("p.npz")
    assert not Path("pwned").exists()
    pickle.loads(Path("p.npz").read_bytes())  # noqa: S301 (shows that it would have)
    assert Path("pwned").exists()


@given(data=st.data())
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, data, tmp_path_factory) -> None:
    """No cut or flipped bit raises anything else, or changes an array that has a CRC."""
    network = make_network()
    good = {key: getattr(network, key) for key in ARRAYS}
    path = tmp_path_factory.getbasetemp() / name
    with path.open("wb") as file:
        FORMATS[name](file if name.lower().endswith("npz") else path, good)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
        refused(path)
        return
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = Network.load(path, "tanh")
    except NetworkError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        if name.lower().endswith(".npz"):
            for key in ARRAYS:
                np.testing.assert_array_equal(getattr(found, key), getattr(network, key))


def test_an_archive_that_hides_a_file(tmp_path) -> None:
    """One wrong length in its directory, and zipfile lists a file less: a bias would be zero."""
    network, path = make_network(), tmp_path / "w.npz"
    np.savez(path, **{name: getattr(network, name) for name in ARRAYS})
    content = bytearray(path.read_bytes())
    before, last = (content.rfind(b"PK\1\2", 0, end) for end in (content.rfind(b"PK\1\2"), None))
    # The comment of the last but one takes the last one's place
    struct.pack_into("<H", content, before + 32, content.rfind(b"PK\5\6") - last)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["W1.npy", "b1.npy", "W2.npy"]
    assert "its directory lists 3 of 4 files" in refused(path)


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((M, N)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("w.npz", b"", "it is not a zip archive"),
        ("w.npz", b"garbage" * 99, "it is not a zip archive"),
        ("w.npz", npy(), "it is not a zip archive"),
        ("w.safetensors", b"", "this cannot be read as safetensors: "),
        ("w.safetensors", b"garbage" * 99, "this cannot be read as safetensors: "),
        ("w.safetensors", npy(), "this cannot be read as safetensors: "),
        ("w.safetensors", raw_safetensors({}), "The file holds no array."),
        ("w.npy", npy(), "the format .npy is not known; weights are read from .npz, .safe"),
        ("w", npy(), "the format of a file without suffix is not known; weights are read from"),
        ("w.npz", None, "there is no such file (network.weights)."),
        ("w.safetensors", None, "there is no such file (network.weights)."),
        ("", None, "there is no such file (network.weights)."),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, problem) -> None:
    path = tmp_path / name if name else tmp_path / "directory.npz"
    if not name:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert problem in refused(path)


def test_zip_of_something_else(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "The file holds readme.txt () |S5." in refused(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"W1": [[1.0, 2.0], [3.0]]}, NetworkError, "W1 is not an array of numbers: "),
        ({"W1": None}, NetworkError, "W1 () object"),
        ({"W1": "w"}, NetworkError, "W1 () <U1"),
        ({"activation": "tahn"}, UsageError, "no activation 'tahn'; nearest: tanh"),
        ({"activation": {"name": "elu", "slope": 1}}, UsageError, "elu has no parameter 'slope'"),
        *(({"activation": wrong}, UsageError, re.escape(f"parameters, not {wrong!r}"))
          for wrong in (None, 3, {}, {"alpha": 1}, {"name": 3})),
    ],
)  # fmt: skip
def test_constructor_refuses(arrays, changes, error, problem) -> None:
    with pytest.raises(error, match=problem if "\\" in problem else re.escape(problem)):
        Network(**(arrays | {"activation": "tanh"} | changes))


def test_constructor(arrays) -> None:
    network = Network(**{name: array.tolist() for name, array in arrays.items()}, activation="elu")
    assert_same(network, arrays, np.float64)
    same = [Network(**arrays, activation=a) for a in ("elu", {"name": "elu"}, activation("elu"))]
    assert len({network.fingerprint for network in same}) == 1
    # what is given is copied: it stays writable, and its changes stay outside
    mine = {name: array.copy() for name, array in arrays.items()}
    network = Network(**mine, activation="tanh")
    for array in mine.values():
        array[...] = 9
    assert_same(network, arrays)
    with pytest.raises(ValueError, match="read-only"):
        network.W1[0, 0] = 1
    with pytest.raises(AttributeError):
        network.W1 = mine["W1"]
    assert repr(network) == f"Network(n={N}, m={M}, q={Q}, {network.activation!r}, float32)"


def test_fingerprint_names_the_content(saved, arrays) -> None:
    network = Network(**arrays, activation="elu")
    assert re.fullmatch("sha256:[0-9a-f]{64}", network.fingerprint)
    assert Network.load(saved(foreign(arrays)), "elu").fingerprint == network.fingerprint
    fortran = {name: np.asfortranarray(array).astype(">f4") for name, array in arrays.items()}
    assert Network(**fortran, activation="elu").fingerprint == network.fingerprint
    different = [network]
    for name in ARRAYS:
        changed = arrays[name].copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        different.append(Network(**(arrays | {name: changed}), activation="elu"))
    flat = np.arange(12, dtype=np.float32)
    different += [  # equal weights in other shapes
        Network(flat.reshape(m, -1), None, np.ones((12 // m, m)), None, "elu") for m in (2, 3, 4, 6)
    ]
    different += [
        Network(**arrays, activation="tanh"),
        Network(**arrays, activation={"name": "elu", "alpha": 0.5}),
        Network(**{name: array.astype("f8") for name, array in arrays.items()}, activation="elu"),
        Network(arrays["W1"], None, arrays["W2"], arrays["b2"], "elu"),
    ]
    assert len({network.fingerprint for network in different}) == len(different)

"""Weights and X that mean harm: no pickle is loaded, no memory asked for, no header believed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import colonnade as cn
from colonnade import Network
from colonnade.inputs import open_columns
from support import N, P, allowed, frugal_refusal, make_columns, snapshot

# A .npy of four float32, for W1 and W2 with n = m = q = 2
SQUARE = {"descr": "'<f4'", "fortran_order": "False", "shape": "(2, 2)"}


def npy(data: bytes = bytes(16), **changes: str) -> bytes:
    said = ", ".join(f"'{key}': {value}" for key, value in (SQUARE | changes).items())
    return headed(f"{{{said}}}\n".encode(), data)


def headed(header: bytes, data: bytes = bytes(16)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def long_header(version: int, length: int) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", length) + npy()[10:]


# Headers that Python's own parser stumbles over
DAMAGED = [
    headed(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,\n"),
    headed(b"{'descr': '<f4\n"),
    headed(b"{'descr': '''<f4\n"),
    headed(b"{1: 2, 'a': 3}\n"),
    headed(b"{[]: 1}\n"),
    headed(b"{'descr'\0}\n"),
]
# What is wrong with a header, and what is said of it; both as weights and as X
HEADERS: list[tuple[bytes, str]] = [
    *((content, "its header cannot be read") for content in DAMAGED),
    (npy(shape="(2, 3)"), "claims (2, 3) numbers of type float32, 24 bytes, and only 16 are there"),
    (npy(shape="(100000, 200000)"), "80,000,000,000 bytes, and only 16 are there"),
    (npy(shape="(10000000000, 10000000000)"), "and only 16 are there"),
    (npy(shape="(4294967296, 4294967296)"), "and only 16 are there"),
    (npy(shape="(-2, -2)"), "claims a negative length"),
    (npy(shape="(2.0, 2)"), "shape is not valid"),
    (npy(shape="4"), "shape is not valid"),
    (npy(shape="(10**9, 10**9)"), "malformed node"),
    (npy(shape="(" * 300 + ")" * 300), "cannot be read"),
    (npy(shape="-" * 9000 + "1"), "nested too deeply"),
    (npy(shape="1" * 5000), "cannot be read"),
    (npy(shape="'\x1b[2J'"), "shape is not valid"),
    (npy(descr="'O'"), "bject"),
    (npy(descr="'<c8'", shape="(2, 1)"), "is of type complex64"),
    (npy(descr="'<c8'"), "claims (2, 2) numbers of type complex64"),
    (npy(descr="[('a', '<f4')]"), "is of type [('a', '<f4')]"),
    (npy(descr="[('a', 'O')]"), "bject"),
    (npy(descr="'<U1'", shape="(2, 2)"), "is of type <U1"),
    (npy(descr="'V0'", shape="(1000000, 1000000)"), "|V0"),
    (npy(descr="'(1000000,1000000)f4'"), "cannot be read"),
    (npy(descr="'V99999999999'"), "is not a valid dtype"),
    (npy(descr="'" + "x" * 5000 + "'"), "is not a valid dtype"),
    (npy(descr="__import__('os').mkdir('pwned')"), "malformed node"),
    (npy(fortran_order="3"), "fortran_order is not a valid bool"),
    (npy(shape="(0, 2)", data=b""), "mpty"),
    (long_header(2, 2**32 - 1), "header has 4,294,967,295 bytes"),
    (long_header(3, 2**31), "header has 2,147,483,648 bytes"),
    (long_header(9, 80), "cannot be read"),
    (npy()[:30], "cannot be read"),
    (npy()[:-1], "only 15 are there"),
    (b"\x93NUMPY", "cannot be read"),
]


@pytest.mark.parametrize(("content", "told"), HEADERS, ids=lambda value: str(value)[-30:])
def test_npy_headers(tmp_path, monkeypatch, content: bytes, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("X.npy").write_bytes(content)
    assert told in frugal_refusal(lambda: open_columns("X.npy"))
    with zipfile.ZipFile("w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W1.npy", content)
        archive.writestr("W2.npy", npy())
    assert told in frugal_refusal(lambda: Network.load("w.npz", "tanh"))
    assert list(snapshot(tmp_path)) == ["X.npy", "w.npz"]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda value: str(value[10:-16]))
def test_npy_headers_of_means_and_deviations(tmp_path, job, content: bytes) -> None:
    path = tmp_path / "std.npy"
    path.write_bytes(content)
    for key, sections in (
        ("network.input_mean", {"network": {"input_mean": str(path)}}),
        ("output.scale.input_std", {"output": {"scale": {"input_std": str(path)}}}),
    ):
        said = frugal_refusal(lambda sections=sections: cn.plan(job(**sections)))
        assert key in said
        assert f"{path}: " in said
        assert "its header cannot be read" in said


def test_sound_headers(tmp_path) -> None:
    """What the refused ones are variations of; big-endian and Fortran order are no fault."""
    data = np.arange(4, dtype=">f4").tobytes()
    for content in (npy(data, descr="'>f4'"), npy(data, descr="'>f4'", fortran_order="True")):
        (tmp_path / "X.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
            archive.writestr("W1.npy", content)
            archive.writestr("W2.npy", npy())
        X = np.load(tmp_path / "X.npy")
        np.testing.assert_array_equal(open_columns(tmp_path / "X.npy").read(0, 2), X)
        np.testing.assert_array_equal(Network.load(tmp_path / "w.npz", "tanh").W1, X)


class Evil:
    """Unpickled, it makes a directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


Zip = Callable[[zipfile.ZipFile], None]


def entry(name: str, data: bytes, **changes: Any) -> Zip:
    """An entry of which the archive tells something else than the truth."""

    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        archive.writestr(info, data)
        for key, value in changes.items():
            setattr(info, key, value)

    return write


DEFLATED = zlib.compress(npy(), wbits=-15)
PICKLE = pickle.dumps(Evil())


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (entry("W1.npy", npy(PICKLE, descr="'O'")), "Object arrays cannot be loaded"),
        (entry("W1.npy", PICKLE), "W1 () |S"),
        (entry("W1.pkl", PICKLE), "W1.pkl () |S"),
        (entry("W2.npy", npy()), "it holds W2 more than once"),
        (entry("W2", npy()), "it holds W2 more than once"),
        (entry("../../etc/passwd.npy", npy()), "../../etc/passwd (2, 2) float32"),
        (entry("/W1.npy", npy()), "/W1 (2, 2) float32"),
        (entry("\x1b[2J.npy", npy()), "'\\x1b[2J (2, 2) float32'"),
        (entry("x" * 60_000, npy()), "x" * 70),
        (entry("W1.npy", npy(), file_size=10**12), "would unpack to 1,000,000,000,"),
        (entry("W1.npy", npy(), file_size=2**60, compress_size=2**60), "would unpack to"),
        (entry("W1.npy", DEFLATED, compress_type=8, file_size=10**12), "would unpack to"),
        (entry("W1.npy", DEFLATED, compress_type=8, file_size=40), "cannot be read"),
        (entry("W1.npy", DEFLATED, compress_type=12, file_size=80), "neither stored nor deflated"),
        (entry("W1.npy", DEFLATED, compress_type=14, file_size=80), "neither stored nor deflated"),
        (entry("W1.npy", DEFLATED, compress_type=99, file_size=80), "neither stored nor deflated"),
        (entry("W1.npy", b"garbage", compress_type=8, file_size=80), "cannot be read"),
        (entry("W1.npy", npy(), CRC=1), "Bad CRC-32"),
        (entry("W1.npy", npy(), flag_bits=1), "encrypted"),
        (entry("W1.npy", npy(), header_offset=2**40), "cannot be read"),
    ],
)
def test_archives(tmp_path, monkeypatch, first: Zip, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("w.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of a name that is there already
        archive.writestr("W2.npy", npy())
        first(archive)
    assert told in frugal_refusal(lambda: Network.load("w.npz", "tanh"))
    assert list(snapshot(tmp_path)) == ["w.npz"]


def test_an_archive_of_very_many_arrays(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        for i in range(1000):
            archive.writestr(f"{i}.npy", npy())
    assert "…" in frugal_refusal(lambda: Network.load(tmp_path / "w.npz", "tanh"))


def test_weights_that_compress_well_are_read(tmp_path) -> None:
    """Zeros, as of a pruned network: a thousandth of their size is no bomb by itself."""
    W1, W2 = np.zeros((1024, 1024), np.float32), np.ones((1, 1024), np.float32)
    np.savez_compressed(tmp_path / "w.npz", W1=W1, W2=W2)
    assert (tmp_path / "w.npz").stat().st_size < W1.nbytes / 500
    assert Network.load(tmp_path / "w.npz", "tanh").n == 1024


def tensor(start: int, stop: int, shape: Any = (2, 2), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def twice(name: str) -> bytes:
    other = json.dumps(tensor(0, 16))
    return (
        f'{{"W1": {other}, "{name}": {json.dumps(tensor(16, 32))}, "W2": '.encode()
        + (json.dumps(tensor(16, 32)) + "}").encode()
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"W1": tensor(0, 16), "W2": tensor(0, 16)}, "invalid offset"),
        ({"W1": tensor(0, 16), "W2": tensor(8, 32)}, "invalid offset"),
        ({"W1": tensor(0, 16), "W2": tensor(20, 36)}, "invalid offset"),
        ({"W1": tensor(0, 16), "W2": tensor(16, 2**40)}, "cannot be read"),
        ({"W1": tensor(0, 16), "W2": tensor(16, 2**70)}, "cannot be read"),
        ({"W1": tensor(16, 0), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(-16, 16), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 16, [2, 3]), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 16, [2**33, 2**33]), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 0, [0, 2**62]), "W2": tensor(0, 32, [2, 4])}, "cannot be read"),
        ({"W1": tensor(0, 16, [-2, -2]), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 16, dtype="F33"), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 16, [2, 1], "C64"), "W2": tensor(16, 32)}, "W1 is of type C64"),
        ({"W1": tensor(0, 16, [4], dtype=None), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": 3, "W2": tensor(16, 32)}, "cannot be read"),
        ({"__metadata__": [], "W1": tensor(0, 16), "W2": tensor(16, 32)}, "cannot be read"),
        ({"W1": tensor(0, 16), "\x1b[2J": tensor(16, 32)}, "'\\x1b[2J (2, 2) float32'"),
        ({str(i): tensor(0, 0, [0]) for i in range(3000)} | {"a": tensor(0, 32, [8])}, "…"),
        (twice("W2"), "a key of its header is written twice"),
        (twice("W1"), "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "cannot be read"),
        (b"\xff" * 100, "cannot be read"),
        (b"{} garbage", "cannot be read"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_safetensors(tmp_path, header: Any, told: str) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    assert told in frugal_refusal(lambda: Network.load(path, "tanh"))


@pytest.mark.parametrize("length", [0, 7, 2**16, 99_000_000, 2**40, 2**63, 2**64 - 1])
def test_safetensors_with_a_header_of_another_length(tmp_path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"W1": 1}')
    frugal_refusal(lambda: Network.load(path, "tanh"))


@settings(max_examples=350)
@given(data=st.data(), suffix=st.sampled_from([".npz", ".safetensors"]))
def test_any_bytes_in_the_place_of_weights(tmp_path_factory, data, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    if suffix == ".npz":
        np.savez(path, W1=np.ones((2, 2)), W2=np.ones((1, 2)))
    else:
        said = json.dumps({"W1": tensor(0, 16), "W2": tensor(16, 32)}).encode()
        path.write_bytes(struct.pack("<Q", len(said)) + said + bytes(32))
    content = bytearray(path.read_bytes())
    spoil(content, data)
    path.write_bytes(content)
    allowed(lambda: Network.load(path, "tanh"), bytes(content))


def spoil(content: bytearray, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = start + data.draw(st.integers(0, 8))
        content[start:stop] = data.draw(st.binary(max_size=8))


@settings(max_examples=350)
@given(data=st.data())
def test_any_bytes_in_the_place_of_x(tmp_path_factory, data) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    np.save(path, np.ones((2, 3), np.float32))
    content = bytearray(path.read_bytes())
    spoil(content, data)
    path.write_bytes(content)
    opened = allowed(lambda: open_columns(path), bytes(content))
    if opened is not None:
        assert opened.read(0, opened.p).shape == (opened.n, opened.p)


@settings(max_examples=80)
@given(data=st.data(), version=st.sampled_from([2, 3]))
def test_any_bytes_in_the_place_of_metadata(tmp_path_factory, data, version: int) -> None:
    path = save(tmp_path_factory.getbasetemp() / "X.zarr", version)
    content = bytearray((path / META[version]).read_bytes())
    spoil(content, data)
    (path / META[version]).write_bytes(content)
    allowed(lambda: open_columns(path), bytes(content))


# X in Zarr

META = {2: ".zarray", 3: "zarr.json"}


def save(path: Path, version: int, **options: Any) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    zarr.create_array(path, data=make_columns(), chunks=(N, 50), zarr_format=version, **options)
    return path


def grid(*shape: int) -> dict[str, Any]:
    chunks = {"name": "regular", "configuration": {"chunk_shape": shape}}
    return {"chunk_grid": chunks}


def shard(*shape: int) -> list[dict[str, Any]]:
    raw = [{"name": "bytes", "configuration": {"endian": "little"}}]
    inner = {"chunk_shape": shape, "codecs": raw, "index_codecs": raw, "index_location": "end"}
    return [{"name": "sharding_indexed", "configuration": inner}]


@pytest.mark.parametrize(
    ("version", "changes", "told"),
    [
        (3, grid(N, 10**12), "take 20,000,000,000,000 bytes to read; store it in smaller ones"),
        (3, grid(10**12, 10**12), "bytes to read"),
        (3, grid(N, 10**9) | {"codecs": shard(1, 1)}, "take 80,000,000,000 bytes to read"),
        (3, grid(N, 0), "X.zarr: "),
        (3, grid(N, -1), "cannot be read as Zarr"),
        (3, grid(N), "cannot be read as Zarr"),
        (3, {"chunk_grid": {"name": "nope"}}, "cannot be read as Zarr"),
        (3, {"codecs": [{"name": "nope"}]}, "nope"),
        (3, {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}, "pickle"),
        (3, {"codecs": []}, "cannot be read as Zarr"),
        (3, {"shape": [N, 10**30]}, "more than 8 EiB"),
        (3, {"shape": [N, -1]}, "cannot be read as Zarr"),
        (3, {"shape": [N, "a"]}, "cannot be read as Zarr"),
        (3, {"shape": None}, "cannot be read as Zarr"),
        (3, {"data_type": "float99"}, "cannot be read as Zarr"),
        (3, {"data_type": "complex64", "fill_value": [0, 0]}, "is of type complex64"),
        (3, {"fill_value": "x" * 5000}, "cannot be read as Zarr"),
        (3, {"zarr_format": 99}, "cannot be read as Zarr"),
        (3, {"node_type": "\x1b[2J" * 99}, "X.zarr: "),
        (2, {"chunks": [N, 10**12]}, "take 20,000,000,000,000 bytes to read"),
        (2, {"chunks": [N, 0]}, "X.zarr: "),
        (2, {"compressor": {"id": "nope"}}, "nope"),
        (2, {"compressor": {"id": "pickle"}}, "pickle"),
        (2, {"filters": [{"id": "pickle"}]}, "pickle"),
        (2, {"filters": [{"id": "delta", "dtype": "<f4"}, {"id": "pickle"}]}, "pickle"),
        (2, {"dtype": "|O", "filters": [{"id": "pickle"}]}, "X.zarr: "),
        (2, {"dtype": "|O", "filters": [{"id": "vlen-utf8"}]}, "X.zarr: X is of type"),
        (2, {"dtype": [["a", "<f4"]]}, "X.zarr: "),
        (2, {"shape": [10**20, 10**20]}, "more than 8 EiB"),
    ],
    ids=str,
)
def test_zarr_metadata(tmp_path, monkeypatch, job, version, changes, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "X.zarr", version)
    document = path / META[version]
    document.write_text(json.dumps(json.loads(document.read_text()) | changes))
    for chunk in [*path.glob("c/0/*"), *path.glob("0.*")]:
        chunk.write_bytes(PICKLE)
    before = snapshot(path)
    # A mention in the path is none
    said = frugal_refusal(lambda: cn.plan(job(input={"path": str(path)})))
    assert told in said.replace(str(tmp_path), "")
    assert snapshot(path) == before
    assert not Path("pwned").exists()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"zarr_format": 3}', b"3" * 10_000],
)
def test_zarr_metadata_that_is_none(tmp_path, version: int, content: bytes) -> None:
    path = save(tmp_path / "X.zarr", version)
    (path / META[version]).write_bytes(content)
    frugal_refusal(lambda: open_columns(path))


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_metadata_from_a_pipe(tmp_path, version: int) -> None:
    path = save(tmp_path / "X.zarr", version)
    (path / META[version]).unlink()
    os.mkfifo(path / META[version])
    assert "is not a regular file" in frugal_refusal(lambda: open_columns(path))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shards", [None, (N, 100)])
def test_a_pipe_in_the_place_of_a_chunk(tmp_path, version: int, shards: Any) -> None:
    if shards and version == 2:
        pytest.skip("Zarr v2 has no shards")
    path = save(tmp_path / "X.zarr", version, **({"shards": shards} if shards else {}))
    chunk = path / ("c/0/0" if version == 3 else "0.0")
    chunk.unlink()
    os.mkfifo(chunk)
    columns = open_columns(path)
    for use in (lambda: columns.read(0, 3), columns.fingerprint):
        with pytest.raises(ValueError, match="is not a regular file"):
            use()


@pytest.mark.parametrize("version", [2, 3])
def test_a_pipe_in_the_place_of_a_members_metadata(tmp_path, version: int) -> None:
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=version)
    for name in ("X", "deep/X"):
        group.create_array(name, data=make_columns())
        document = tmp_path / "g.zarr" / name / META[version]
        document.unlink()
        os.mkfifo(document)
        for array in (None, name):
            frugal_refusal(lambda array=array: open_columns(tmp_path / "g.zarr", array))


@pytest.mark.parametrize("compressors", [None, "auto"])
@settings(max_examples=60)
@given(data=st.data(), version=st.sampled_from([2, 3]))
def test_damaged_zarr_chunks(tmp_path_factory, compressors: Any, data, version: int) -> None:
    """What is wrong is told, or is a number like any other."""
    path = save(tmp_path_factory.getbasetemp() / "X.zarr", version, compressors=compressors)
    chunk = path / ("c/0/0" if version == 3 else "0.0")
    content = bytearray(chunk.read_bytes())
    start = data.draw(st.integers(0, min(len(content), 40)))
    content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    chunk.write_bytes(content)
    columns = open_columns(path)
    try:
        assert columns.read(0, P).shape == (N, P)
    except (OSError, ValueError) as error:
        assert len(str(error)) < 1000  # noqa: PT017


def test_groups_of_very_many_arrays(tmp_path) -> None:
    made = zarr.create_group(tmp_path / "g.zarr")
    for i in range(30):
        made.create_array("x" * 100 + str(i), shape=(2, 2), dtype="f4")
    assert "…" in frugal_refusal(lambda: open_columns(tmp_path / "g.zarr"))
    assert "there is no array" in frugal_refusal(
        lambda: open_columns(tmp_path / "g.zarr", "\x1b" * 9)
    )


# Other libraries' formats


def onnx_model(**changes: Any) -> bytes:
    """A sound graph, whose W claims something else."""
    onnx = pytest.importorskip("onnx")
    shapes = {"W": (2, 2), "b": (2,), "U": (2, 2)}
    tensors = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in shapes.items()
    ]
    for key, value in changes.items():
        if key == "external":
            tensors[0].ClearField("raw_data")
            tensors[0].data_location = onnx.TensorProto.EXTERNAL
            for name, text in value.items():
                entry = tensors[0].external_data.add()
                entry.key, entry.value = name, text
        else:
            getattr(tensors[0], key)[:] = value
    node = onnx.helper.make_node
    nodes = [node("Gemm", ["x", "W", "b"], ["z"]), node("Tanh", ["z"], ["s"]),
             node("MatMul", ["s", "U"], ["y"])]  # fmt: skip
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["p", 2]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def external(**changes: str) -> bytes:
    return onnx_model(external={"location": "w.data"} | changes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda: onnx_model(dims=[2, 3]), "claims the shape (2, 3), 24 bytes, but its data has 16"),
        (lambda: onnx_model(dims=[2**31, 2**31]), "but its data has 16"),
        (lambda: onnx_model(dims=[-2, -2]), "has the shape (-2, -2)"),
        (external, "at byte 0, but the file ends at byte 12"),
        (lambda: external(location="../up.data"), "'../up.data', outside the model's folder"),
        (lambda: external(location="a/../w.data"), "outside the model's folder"),
        (lambda: external(location="/etc/passwd"), "'/etc/passwd', outside the model's folder"),
        (lambda: external(location="link.data"), "'link.data', outside the model's folder"),
        (lambda: external(location=""), "outside the model's folder"),
        (lambda: external(location="folder"), "which is not a file"),
        (lambda: external(location="gone.data"), "which is not a file"),
        (lambda: external(location="pipe"), "which is not a file"),
        (lambda: external(offset="-16"), "at byte -16"),
        (lambda: external(offset="x"), "at an offset or length that is not an integer"),
        (lambda: external(length="1000000000000"), "but its data has 1,000,000,000,000"),
        (lambda: b"", "has the inputs none"),
        (lambda: b"garbage" * 99, "cannot be read as ONNX"),
        (lambda: PICKLE, "cannot be read as ONNX"),
    ],
)  # fmt: skip
def test_onnx(tmp_path, monkeypatch, content: Callable[[], bytes], told: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name, size in (("../up.data", 16), ("w.data", 12)):
        Path(name).write_bytes(bytes(size))
    Path("link.data").symlink_to("../up.data")
    os.mkfifo("pipe")
    Path("w.onnx").write_bytes(content())
    assert told in frugal_refusal(lambda: Network.load("w.onnx"))
    assert not Path("pwned").exists()


Change = Callable[[Any, Path], None]


def lies_elsewhere(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(16))
    file.create_dataset("b", (2,), "f8", external=[(str(folder / "secret"), 0, 16)])


def virtual(file: Any, _: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "b", (2,))
    file.create_virtual_dataset("b", layout)


def linked(file: Any, folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "other.h5", "w") as other:
        other["b"] = np.ones(2)
    del file["W2"]
    file["W2"] = h5py.ExternalLink("other.h5", "b")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f, _: f.create_dataset("b", (10**6, 10**6), "f8"), "more than the file holds"),
        (lambda f, _: f.create_dataset("b", (9, 9), "f8", chunks=(3, 3)), "chunked or compressed"),
        (lambda f, _: f.create_dataset("b", data=np.zeros(9**6), compression="gzip"), "chunked or"),
        (lies_elsewhere, "'b' lies in another file"),
        (virtual, "'b' lies in another file"),
        (linked, "the weights have a single layer, W1"),
        (lambda f, _: f.attrs.update(model_config="[" * 50_000), "cannot be read as an HDF5 file"),
        (lambda f, _: f.attrs.update(model_config="{}"), "are incomplete"),
        (lambda f, _: f.attrs.update(model_config='{"class_name": "Sequential", "config": '
                                     '{"layers": [{"class_name": "Lambda", "config": {}}]}}'),
         "are incomplete"),
    ],
)  # fmt: skip
def test_hdf5(tmp_path, change: Change, told: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["W1"] = file["W2"] = np.ones((2, 2))
        change(file, tmp_path)
    assert told in frugal_refusal(lambda: Network.load(tmp_path / "w.h5", "tanh"))


def circle(*names: str) -> dict[str, Any]:
    """A functional model whose layers follow each other in a circle."""
    layers = [
        {"name": name, "class_name": "Dropout", "config": {"name": name},
         "inbound_nodes": [[[names[i - 1], 0, 0, {}]]]}
        for i, name in enumerate(names)
    ]  # fmt: skip
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [[names[0], 0, 0]]}
    return {"class_name": "Functional", "config": {"layers": layers} | ends}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b"[" * 100_000, "cannot be read as a Keras model"),
        (b"{}", "are incomplete"),
        (b" " * (17 * 2**20), "more than 16,777,216 bytes"),
        (b'{"class_name": "Lambda", "config": {"layers": []}}', "it is a Lambda"),
        (json.dumps(circle("a", "b", "c")).encode(), "its layers form a cycle"),
        (PICKLE, "cannot be read as a Keras model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_keras(tmp_path, config: bytes, told: str) -> None:
    with zipfile.ZipFile(tmp_path / "w.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.10.0"}')
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", b"")
    assert told in frugal_refusal(lambda: Network.load(tmp_path / "w.keras"))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"w/data.pkl": PICKLE}, "a pickle with"),
        ({"w/data.pkl": b"cos\nsystem\n(S'mkdir pwned'\ntR."}, "a pickle with os.system"),
        ({"w/data.pkl": b"cbuiltins\nbytearray\n(I1000000000000\ntR."}, "builtins.bytearray"),
        ({"w/data.pkl": b""}, "cannot be read as a state dict"),
        ({"w/constants.pkl": b"", "w/data.pkl": b"N."}, "it is TorchScript"),
        ({"other": b""}, "torch.save did not write it"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch(tmp_path, monkeypatch, entries: dict[str, bytes], told: str, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(f"w{suffix}", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert told in frugal_refusal(lambda: Network.load(f"w{suffix}", "tanh"))
    assert list(snapshot(tmp_path)) == [f"w{suffix}"]


def test_a_bare_pickle_is_no_torch_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("skops.io")  # which takes memory of its own
    for name in ("w.pt", "w.skops", "w.keras"):
        Path(name).write_bytes(PICKLE)
        said = frugal_refusal(lambda name=name: Network.load(name, "tanh"))
        assert "it is not a zip archive" in said
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}, "cannot be"),
        ({"__class__": "A", "__module__": "nowhere", "__loader__": "ObjectNode", "content": None},
         "types that are not trusted: nowhere.A"),
        ({}, "cannot be read as a skops file"),
        (b"[" * 100_000, "cannot be read as a skops file"),
    ],
)  # fmt: skip
def test_skops(tmp_path, schema: Any, told: str) -> None:
    pytest.importorskip("skops.io")
    text = schema if isinstance(schema, bytes) else json.dumps(schema | {"protocol": 1})
    with zipfile.ZipFile(tmp_path / "w.skops", "w") as archive:
        archive.writestr("schema.json", text)
    assert told in frugal_refusal(lambda: Network.load(tmp_path / "w.skops"))


def test_a_zarr_group_of_weights_that_claims_too_much(tmp_path) -> None:
    group = zarr.create_group(tmp_path / "w.zarr")
    group.create_array("W1", shape=(10**6, 10**6), chunks=(10, 10), dtype="f4")
    group.create_array("W2", data=np.ones((2, 2), np.float32))
    said = frugal_refusal(lambda: Network.load(tmp_path / "w.zarr", "tanh"))
    assert "W1 claims the shape (1000000, 1000000) in chunks of (10, 10), but stores" in said

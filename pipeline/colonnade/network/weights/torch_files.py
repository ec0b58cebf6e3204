"""Read state dicts that torch.save wrote; refuse pickles that hold more than tensors by name."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from colonnade.errors import NetworkError, one_line, sanitize
from colonnade.network.weights.archives import check_archive
from colonnade.network.weights.extras import import_optional
from colonnade.network.weights.loaded import Loaded

__all__ = ["load_torch"]

# Globals that dicts of tensors need; torch's own weights_only allows more
_ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch [A-Z][A-Za-z0-9]+Storage"
)
# Keys under which checkpoints keep the state dict
_WRAPPERS = ("state_dict", "model_state_dict")


def load_torch(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read the tensors of a state dict; raise NetworkError if the file does not hold one."""
    try:
        _check(file)
        torch = import_optional("torch", "torch")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        found = torch.load(file, map_location="cpu", weights_only=True)
        return Loaded(_arrays(torch, found, size))
    except (MemoryError, NetworkError):
        raise
    # A damaged file makes torch raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as a state dict of torch: {one_line(error)}"
        raise NetworkError(message) from error


def _check(file: IO[bytes]) -> None:
    """Inspect the archive and its pickle before torch loads them."""
    check_archive(file)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.partition("/")[2]: entry for entry in entries}
        if "constants.pkl" in names:
            raise ValueError("it is TorchScript; save the state_dict() of the model")
        if "data.pkl" not in names:
            raise ValueError("torch.save did not write it; save the state_dict() with torch.save")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed; save it with torch.save, which does not compress")
        pickled = archive.read(names["data.pkl"])
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST") and _ALLOWED.fullmatch(str(argument)):
            continue
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            what = sanitize(str(argument or opcode.name).replace(" ", "."))
            raise ValueError(
                f"it is a pickle with {what}, which is more than tensors; save the state_dict() of "
                "the model instead, with torch.save or as safetensors"
            )


def _arrays(torch: Any, found: Any, size: int) -> dict[str, Any]:
    if isinstance(found, Mapping):
        found = next((found[key] for key in _WRAPPERS if key in found), found)
    if not isinstance(found, Mapping):
        raise TypeError(
            f"it holds a {type(found).__name__}, not tensors by name; save the model's state_dict()"
        )
    arrays = {}
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
            raise TypeError(
                f"it holds {sanitize(repr(name))}, which is not a tensor with a name; save the "
                "model's state_dict() alone"
            )
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            raise ValueError(
                f"{sanitize(name)} is sparse, or claims more bytes than the file has; save it dense"
            )
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()  # noqa: PLW2901
        arrays[name] = tensor.detach().numpy()
    return arrays

"""Read a store with plain zarr, without colonnade.

python configs/examples/read_zarr.py out/digits.zarr
"""

import sys

import numpy as np
import zarr

if len(sys.argv) != 2:
    sys.exit("Say which store: python configs/examples/read_zarr.py out/digits.zarr")
path = sys.argv[1]

try:
    # Not the path itself: of a text, Zarr takes # and ? for parts of a URL
    group = zarr.open_group(zarr.storage.LocalStore(path), mode="r")
except FileNotFoundError:
    sys.exit(f"{path}: there is no store.")

# Missing blocks read as NaN; whether any are missing, the store says itself
print("state:", group.attrs["colonnade"]["state"])
for name, array in group.arrays():
    print(name, array.shape, array.metadata.dimension_names)

if "jacobian" not in group:
    sys.exit(
        f"{path} holds no array jacobian: a store of layout factored holds slopes, of which it is "
        'made as "Layouts" in the README says, or by colonnade materialize.'
    )

# (column, output, input): the Jacobian block of column 17
block = group["jacobian"][17]
i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
print(f"column 17: output {i} answers most to input {j}: {block[i, j]:.4f}")

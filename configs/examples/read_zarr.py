"""Read a store with plain zarr, without colonnade.

python configs/examples/read_zarr.py out/digits.zarr
"""

import sys

import numpy as np
import zarr

group = zarr.open_group(sys.argv[1], mode="r")

# Missing blocks read as NaN; whether any are missing, the store says itself
print("state:", group.attrs["colonnade"]["state"])
for name, array in group.arrays():
    print(name, array.shape, array.metadata.dimension_names)

# (column, output, input): the Jacobian block of column 17
block = group["jacobian"][17]
i, j = np.unravel_index(block.argmax(), block.shape)
print(f"column 17: output {i} answers most to input {j}: {block[i, j]:.4f}")

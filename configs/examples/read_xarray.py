"""Read a store with xarray: names, lazy arrays, and a calculation over all columns.

python configs/examples/read_xarray.py out/digits.zarr
"""

import sys

import xarray as xr

# engine="colonnade" comes with the package; without it, xr.open_zarr(path, consolidated=False)
# reads the same arrays. chunks={} makes dask arrays of them: nothing is read yet.
ds = xr.open_dataset(sys.argv[1], engine="colonnade", chunks={})
print(ds)

# One column's Jacobian block. Only the chunk that holds it is read.
block = ds.jacobian.isel(column=17).load()
i, j = block.argmax(("output", "input")).values()
print(f"column 17: output {int(i)} answers most to input {int(j)}: {float(block[i, j]):.4f}")

# Over all columns, chunk by chunk, on all cores: how strongly each output answers to each input
strength = abs(ds.jacobian).mean("column").compute()
print(f"on average, output {int(strength.sum('input').argmax('output'))} answers most")

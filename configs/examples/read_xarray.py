"""Read a store with xarray: names, lazy arrays, and a calculation over all columns.

python configs/examples/read_xarray.py out/digits.zarr
"""

import sys

import xarray as xr

from colonnade import ColonnadeError

if len(sys.argv) != 2:
    sys.exit("Say which store: python configs/examples/read_xarray.py out/digits.zarr")
path = sys.argv[1]

# engine="colonnade" comes with the package; without it, xr.open_zarr(path, consolidated=False)
# reads the same arrays. chunks={} makes dask arrays of them: nothing is read yet.
try:
    ds = xr.open_dataset(path, engine="colonnade", chunks={})
except ColonnadeError as error:
    sys.exit(str(error))
print(ds)

# A store of layout factored holds slopes, and the engine makes the tensor of them on reading
if "jacobian" not in ds:
    sys.exit(f"{path} holds no tensor, since its job's output.products lack jacobian.")

# One column's Jacobian block. Only the chunk that holds it is read.
block = ds.jacobian.isel(column=17).load()
i, j = abs(block).argmax(("output", "input")).values()
# Their names; where the store has none, their numbers
output, input_ = block["output"][i].item(), block["input"][j].item()
print(f"column 17: output {output} answers most to input {input_}: {float(block[i, j]):.4f}")

# Over all columns, chunk by chunk, on all cores: how strongly each output answers to each input
strength = abs(ds.jacobian).mean("column").compute()
most = strength.sum("input").argmax("output")
print(f"on average, output {strength['output'][most].item()} answers most")

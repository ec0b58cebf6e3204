"""Read a store with tensorstore, as C++ programs do: one array at a time.

pip install tensorstore
python configs/examples/read_tensorstore.py out/digits.zarr
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorstore as ts

if len(sys.argv) != 2:
    sys.exit("Say which store: python configs/examples/read_tensorstore.py out/digits.zarr")
store = Path(sys.argv[1])
if not (store / "zarr.json").is_file():
    sys.exit(f"{store}: there is no store.")

# tensorstore opens arrays, no groups. What the store says of itself is JSON, names included:
# tensorstore knows no texts, in which they are stored for others.
said = json.loads((store / "zarr.json").read_text())["attributes"]["colonnade"]
print("state:", said["state"])

if not (store / "jacobian").is_dir():
    sys.exit(
        f"{store} holds no array jacobian: a store of layout factored holds slopes, of which it is "
        'made as "Layouts" in the README says, or by colonnade materialize.'
    )
jacobian = ts.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "jacobian")}},
    read=True,
).result()
print(jacobian.domain)

# Nothing is read before .read(), and then only the chunk that holds column 17
block = jacobian[17].read().result()
i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
print(f"column 17: output {i} answers most to input {j}: {block[i, j]:.4f}")

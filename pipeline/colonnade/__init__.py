"""Jacobians of neural networks, column by column, at any width.

import colonnade as cn
network = cn.Network.load("weights.npz", activation="gelu")
T = cn.jacobian(network, X)      # X (n, p), NumPy or Dask, gives (p, q, n) of the same kind
cn.run("job.yaml")
ds = cn.open("out.zarr")         # xarray.Dataset, lazy
A = cn.operator("out.zarr")      # SciPy LinearOperator, blockdiag(J_1 … J_p), never formed
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("colonnade")

# Names are imported when they are first used, as __init__.pyi lists them
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

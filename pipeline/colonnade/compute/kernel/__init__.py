"""The kernel: Jacobian blocks of a network of any depth, J_k = W_L D_(L−1) W_(L−1) … D_1 W_1."""

from colonnade.compute.kernel.kernel import (
    Kernel,
    kernel_bytes,
    result_dtype,
    scratch_bytes,
    slope_numbers,
    working_dtype,
)

__all__ = [
    "Kernel",
    "kernel_bytes",
    "result_dtype",
    "scratch_bytes",
    "slope_numbers",
    "working_dtype",
]

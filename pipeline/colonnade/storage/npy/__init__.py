"""A .npy file, on a disk or in an object store: its header, windows of its matrix, or all of it."""

"""The matrix in a .npy file, on a disk or in an object store: its header, and windows of it."""

"""Read a local or remote .npy file: its header, windows of its matrix, or the whole array."""

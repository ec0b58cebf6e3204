"""Limits on data from others: files, stores and answers of servers.

A file may claim any size, and a small one may unpack to any. Each limit bounds how much one of them
makes a process read, hold or write. A docstring's first sentence names the limited quantity, the
rest gives the reason for the value. The table in SECURITY.md lists all limits, and a test
compares the two.

Names end with their unit: `_BYTES`, `_SECONDS`, `_CHARACTERS`; all others are counts.
"""

from __future__ import annotations

# --- the job file and the command line

JOB_BYTES = 2**16
"""A job file. A job takes a few hundred bytes, and YAML takes time and memory for each."""

JOB_VALUES = 100_000
"""Values of a job file, anchors expanded. Ten nested anchors may expand to 10**10 values."""

JOB_PROBLEMS = 20
"""Problems of a job that a message lists. Nobody reads more at once."""

JOB_COUNT = 10**6
"""Workers, threads and other counts of a job. A larger number is a typing error."""

JOB_SIZE_BYTES = 2**63
"""Sizes in a job, such as memory (exclusive). They are held in 64 bits."""

JOB_SIZE_CHARACTERS = 40
"""The text of a size. Matching the pattern takes quadratic time in the text's length."""

JOB_WALLTIME_SECONDS = 10**8
"""A walltime (exclusive). It is three years."""

# --- weights

WEIGHTS_FETCHED_BYTES = 2**32
"""A file of weights in an object store. The whole file is in memory beside its arrays."""

WEIGHTS_UNPACKED_BYTES = 256 * 2**20
"""Unpacked size that compressed weights may always have, however small their file."""

WEIGHTS_INFLATION = 20
"""Unpacked size of larger weights, relative to their file. Weights hardly compress."""

NPY_HEADER_BYTES = 10_000
"""The header of a .npy file. NumPy has the same limit, but applies it after reading the header."""

KERAS_CONFIG_BYTES = 16 * 2**20
"""The configuration in a .keras archive. A model of a thousand layers takes one MiB."""

KERAS_OBJECTS = 10_000
"""Arrays and groups of a Keras HDF5 file. A model has a few for each layer."""

KERAS_SECONDS = 60
"""Time to read a Keras HDF5 file, in its own process. Damaged files make HDF5 loop forever."""

ONNX_NODES = 10_000
"""Nodes of an ONNX graph. A chain of layers has a few for each."""

EXPRESSION_TERMS = 32
"""Terms of an activation that an ONNX graph spells out. Known activations have far fewer."""

EXPRESSION_CHARACTERS = 400
"""The normal form of such an activation. Expanding products of sums may make it arbitrarily
long."""

UNNAMED_LAYERS = 8
"""Layers that are identified by their shapes. 9! orders are too many to try."""

# --- X

X_BYTES = 2**63
"""X (exclusive). Offsets in X are held in 64 bits."""

CHUNK_BYTES = 2**31
"""A chunk of X, unpacked. It is read whole for a single column."""

CHUNK_INFLATION = 2
"""Unpacked size of a chunk of X or of weights in Zarr, relative to its numbers. Codecs may add a
checksum or a header."""

HDF5_UNCHECKED_BYTES = 256 * 2**20
"""Unpacked size up to which HDF5 chunks are not checked. The check unpacks a chunk once more."""

ROW_GROUP_BYTES = 2**31
"""The selected columns of a Parquet row group. They are read whole for a single row."""

PARQUET_STRING_BYTES = 64 * 2**20
"""A text in the metadata of a Parquet file. It may claim any length."""

CSV_BYTES = 2**31
"""A CSV file. Each process scans it for its rows; for a larger file, converting it is faster."""

CSV_HEAD_BYTES = 2**24
"""The header and the first row of a CSV file. A file of a single line would be read whole."""

HDF5_LINKS = 16
"""Links on the way to an array of an HDF5 file. They may form a loop."""

HDF5_MEMBERS = 10_000
"""Members of an HDF5 file that are searched for X. In a larger file, `input.array` must name X."""

SAMPLE_BYTES = 256 * 2**20
"""Data of X that its fingerprint reads, in addition to two chunks. Every command that opens X
reads it."""

# --- names and coordinates

NAMES_FILE_BYTES = 2**24
"""A file of names or standard deviations. The longest lists that a store accepts are smaller."""

NAMES_BYTES = 2**22
"""The names along a dimension, in a store. They are in its attributes, which are read often."""

NAME_CHARACTERS = 200
"""A name. It appears in tables and error messages."""

LABELS = 2**20
"""Features whose names are read from X's own file. If there are more, numbers identify them."""

LABEL_BYTES = 1024
"""A label in X's own file. A name of four bytes per character fits into it."""

COORDINATE_VALUES = 2**24
"""Values of a coordinate that is copied from X. A reader loads a coordinate whole: 128 MiB."""

ATTRIBUTE_CHARACTERS = 1000
"""An attribute that is copied with a coordinate. It is a unit or a name."""

# --- stores

STORE_COLUMNS = 2**60
"""Columns of a store. Their numbers, times the bytes of a column, are held in 64 bits."""

STORE_BLOCKS = 10**7
"""Blocks of a store. Each is a file, a task, and a number in the list of missing blocks."""

STORE_CHUNKS = 10**7
"""Chunks of a store's array. Each becomes a chunk of xarray."""

METADATA_BYTES = 16 * 2**20
"""A metadata document of a store. The names of three dimensions fit into it."""

LEASE_BYTES = 4096
"""The file that names the run that holds a store. Ours take a few hundred bytes."""

RUNS_KEPT = 100
"""Runs that a store records. Only the last ones, so that its attributes stay short."""

FAILURES_KEPT = 20
"""Failed blocks that a store records. Hundreds of failures have one cause."""

# --- reading results

SPARSE_BYTES = 2**30
"""Result of `tosparse`, unless `limit` gives another. A Jacobian may take terabytes."""

REPORT_SAMPLE_BYTES = 256 * 2**20
"""Data of a tensor that a report reads. From a larger tensor, it takes a sample and says so."""

REPORT_NORMS = 2**24
"""Norms that a report reads whole. From more norms, it takes a sample and says so."""

EVENT_CHARACTERS = 10_000
"""A text in an event of `--log json`. Longer texts come only from the content of files."""

METRICS_BYTES = 2**20
"""A file of the metrics of former runs. Ours take a few kilobytes."""

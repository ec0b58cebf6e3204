"""How much is taken of what others have written: files, stores and answers of servers.

A file may claim any size, and a small one may unpack to any. Each limit here bounds what one of
them makes a process read, hold or write; the docstring's first sentence says what, the rest why so
many. The table in SECURITY.md lists all of them, and a test compares the two.

The names tell the unit: `_BYTES`, `_SECONDS`, `_CHARACTERS`; all others count.
"""

from __future__ import annotations

# --- the job file and the command line

JOB_BYTES = 2**16
"""A job file. A job takes some hundred bytes, and YAML takes time and memory for each."""

JOB_VALUES = 100_000
"""Values of a job file, anchors expanded. Ten nested anchors may stand for 10**10 values."""

JOB_PROBLEMS = 20
"""Problems of a job that a message lists. Nobody reads more at once."""

JOB_COUNT = 10**6
"""Workers, threads and other counts of a job. More is a slip of the pen."""

JOB_SIZE_BYTES = 2**63
"""Sizes of a job, such as memory, which stay below it. They are held in 64 bits."""

JOB_SIZE_CHARACTERS = 40
"""The text of a size. The pattern takes the square of a text's length in time."""

JOB_WALLTIME_SECONDS = 10**8
"""A walltime, which stays below it. It is three years."""

# --- weights

WEIGHTS_FETCHED_BYTES = 2**32
"""A file of weights in an object store. It is held whole beside its arrays."""

WEIGHTS_UNPACKED_BYTES = 256 * 2**20
"""What compressed weights may unpack to, however few bytes they have."""

WEIGHTS_INFLATION = 20
"""What larger ones may unpack to, times their bytes. Weights hardly compress."""

NPY_HEADER_BYTES = 10_000
"""The header of a .npy file. NumPy's own limit, which it applies to what it has already read."""

KERAS_CONFIG_BYTES = 16 * 2**20
"""The configuration in a .keras archive. A model of a thousand layers takes one MiB."""

KERAS_OBJECTS = 10_000
"""Arrays and groups of a Keras file of HDF5. A model has a few for each layer."""

KERAS_SECONDS = 60
"""Time to read a Keras file of HDF5, in its own process. Damaged files make HDF5 loop for ever."""

ONNX_NODES = 10_000
"""Nodes of an ONNX graph. A chain of layers has a few for each."""

EXPRESSION_TERMS = 32
"""Terms of an activation that an ONNX graph spells out. Known ones have far fewer."""

EXPRESSION_CHARACTERS = 400
"""The normal form of such an activation. Products of sums may grow without end."""

UNNAMED_LAYERS = 8
"""Layers that are found by their shapes. 9! orders are too many to try."""

# --- X

X_BYTES = 2**63
"""X, which stays below it. Offsets in it are held in 64 bits."""

CHUNK_BYTES = 2**31
"""A chunk of X, unpacked. It is read whole for a single column."""

CHUNK_INFLATION = 2
"""What a chunk of X or of weights in Zarr may unpack to, times its numbers' bytes. Codecs may add
a checksum or a header."""

HDF5_UNCHECKED_BYTES = 256 * 2**20
"""What a chunk of HDF5 may unpack to without a check. To check it, it is unpacked once more."""

ROW_GROUP_BYTES = 2**31
"""The chosen columns of a Parquet row group. It is read whole for a single row."""

PARQUET_STRING_BYTES = 64 * 2**20
"""A text in the metadata of a Parquet file. It may claim any length."""

CSV_BYTES = 2**31
"""A CSV file. Each process looks for its rows; of more bytes, it takes longer than to convert."""

CSV_HEAD_BYTES = 2**24
"""The head and the first row of a CSV file. A file of one line would be taken whole."""

HDF5_LINKS = 16
"""Links on the way to an array of an HDF5 file. They may lead around."""

HDF5_MEMBERS = 10_000
"""Members of an HDF5 file that are looked at to find X. `input.array` names it among more."""

SAMPLE_BYTES = 256 * 2**20
"""What is read of X for its fingerprint, beyond two chunks. Every command that opens X reads it."""

# --- names and coordinates

NAMES_FILE_BYTES = 2**24
"""A file of names or standard deviations. The largest that the store takes are below it."""

NAMES_BYTES = 2**22
"""The names along a dimension, in a store. They stand in its attributes, which are read often."""

NAME_CHARACTERS = 200
"""A name. It stands in tables and in the messages of errors."""

LABELS = 2**20
"""Features whose names are read from X's own file. More are known by their numbers."""

LABEL_BYTES = 1024
"""A label in X's own file. It is four times a name's characters, and some more."""

COORDINATE_VALUES = 2**24
"""Values of a coordinate that is copied from X. A reader loads a coordinate whole: 128 MiB."""

ATTRIBUTE_CHARACTERS = 1000
"""An attribute that is copied with it. It is a unit or a name."""

# --- stores

STORE_COLUMNS = 2**60
"""Columns of a store. Their numbers, times the bytes of a column, are held in 64 bits."""

STORE_BLOCKS = 10**7
"""Blocks of a store. Each is a file, a task, and a number in the list of what is missing."""

STORE_CHUNKS = 10**7
"""Chunks of a store's array. Each is a piece for xarray."""

METADATA_BYTES = 16 * 2**20
"""A document of a store's metadata. Names of three dimensions fit into it."""

LEASE_BYTES = 4096
"""The file that says which run holds a store. Ours take some hundred bytes."""

RUNS_KEPT = 100
"""Runs that a store tells of. The last ones; its attributes stay short."""

FAILURES_KEPT = 20
"""Failed blocks that a store tells of. Hundreds of them have one cause."""

# --- reading results

SPARSE_BYTES = 2**30
"""What `tosparse` makes, unless `limit` says otherwise. A Jacobian may take terabytes."""

REPORT_SAMPLE_BYTES = 256 * 2**20
"""What a report reads of a tensor. Of more it takes a sample, and says so."""

REPORT_NORMS = 2**24
"""Norms that a report reads whole. Of more it takes a sample, and says so."""

EVENT_CHARACTERS = 10_000
"""A text in an event of `--log json`. None is so long unless a file made it so."""

METRICS_BYTES = 2**20
"""A file of the metrics of former runs. Ours take some kilobytes."""

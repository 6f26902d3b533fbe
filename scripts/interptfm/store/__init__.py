"""Reading and writing of everything that passes between stages: atomic, deterministic, checked.

``files`` has JSON, tables and AnnData; ``arrays`` has zarr in one zip file; ``activations`` has the
token store that the model stage writes and the dictionary and feature stages read.
"""

from interptfm.store.activations import Activations, ActivationWriter, open_activations
from interptfm.store.arrays import create_zarr, open_zarr, read_csr, write_array, write_csr
from interptfm.store.files import (
    atomic,
    atomic_folder,
    damaged,
    digest,
    panel,
    read_h5ad,
    read_json,
    read_table,
    write_h5ad,
    write_json,
    write_table,
)

__all__ = [
    "ActivationWriter",
    "Activations",
    "atomic",
    "atomic_folder",
    "create_zarr",
    "damaged",
    "digest",
    "open_activations",
    "open_zarr",
    "panel",
    "read_csr",
    "read_h5ad",
    "read_json",
    "read_table",
    "write_array",
    "write_csr",
    "write_h5ad",
    "write_json",
    "write_table",
]

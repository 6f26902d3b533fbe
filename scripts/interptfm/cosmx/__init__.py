"""Readers for CosMx: flat files of the NSCLC release and of AtoMx, and AnnData files.

:func:`read_cells` is the entry point: it returns an AnnData of the kept cells with raw counts, coordinates
in µm and control probes, before cell types (:mod:`interptfm.cosmx.cell_types`), blocks, splits and shards
(:mod:`interptfm.blocks`) are added.
"""

from interptfm.cosmx.sample import FORMATS, ingest, read_cells

__all__ = ["FORMATS", "ingest", "read_cells"]

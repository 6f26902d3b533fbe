"""The catalogue of bad input over all stages: what is broken, and the very sentence that a user reads.

One line a case, each through the library call that the rule's script makes; how a script turns the sentence
into a log line and exit code 1 is below the table. A new stage joins by lines here.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_cosmx as sections
import test_features as tokens
import test_ontology as ontologies
import test_scgpt_model as models
import test_tis as units_of_tis
import torch
from planning import snakemake as run_snakemake
from scipy import sparse

from interptfm import (
    activations,
    alignment,
    blocks,
    cosmx,
    features,
    fetch,
    integrity,
    job,
    provenance,
    recovery,
    report,
    simulate,
    spaces,
    store,
)
from interptfm import config as settings
from interptfm.errors import InputError
from interptfm.sae import importing
from interptfm.scgpt import checkpoint
from interptfm.tis import units

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "workflow/schemas"


def config(path, value):
    """Resolve the demo's configuration after one change, as the workflow does."""

    def broken(folder):
        changed = copy.deepcopy(settings.load_yaml(ROOT / "config/config.yaml"))
        *parents, last = path.split(".")
        place = changed
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = value
        for key in ("obo", "gaf"):
            found = changed["ontology"][key]
            changed["ontology"][key] = found and str(ROOT / found)
        arms = settings.resolve(changed, settings.load_yaml(SCHEMAS / "config.schema.yaml"))
        for arm in arms.values():
            settings.layers(arm)
        spaces.check(arms)

    return broken


HEADER = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards\n"


def sheet(rows, header=HEADER, simulated=False):
    """Read a sample sheet and look for the files that it names."""

    def broken(folder):
        (folder / "samples.tsv").write_text(header + rows)
        schema = settings.load_yaml(SCHEMAS / "samples.schema.yaml")
        for sample in settings.read_samples(folder / "samples.tsv", schema).values():
            settings.sample_files(sample, folder, simulated)

    return broken


def text(name, content, read):
    """Write one file and read it."""

    def broken(folder):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        read(folder / name)

    return broken


def flat(counts=None, meta=None, positions=None, change_file=None, **options):
    """Read CosMx flat files after a change of a table, or of the file of counts."""

    def broken(folder):
        expression, cells = sections.tissue()
        expression = expression if counts is None else counts(expression)
        cells = cells if meta is None else meta(cells)
        files = sections.write(folder, expression, cells, positions)
        if change_file:
            files["counts"] = change_file(files["counts"])
        cosmx.read_cells(files, "cosmx", **{"pixel_size_um": sections.PIXEL, **options})

    return broken


def put(frame, row, column, value):
    """Return the table with one value replaced."""
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


def truncated(path):
    packed = path.with_name("s_exprMat_file.csv.gz")
    whole = gzip.compress(path.read_bytes(), mtime=0)
    packed.write_bytes(whole[: len(whole) // 2])
    return packed


def annotated(change, **options):
    """Read an AnnData section after a change of it."""

    def broken(folder):
        path = sections.h5ad(folder, change=change)
        cosmx.read_cells({"h5ad": path}, "h5ad", **{"pixel_size_um": sections.PIXEL, **options})

    return broken


def assign(where, name, value):
    """Return a change: one entry of obsm, obs or layers set, or (value None) dropped."""

    def change(adata):
        if value is None:
            del getattr(adata, where)[name]
        else:
            getattr(adata, where)[name] = value

    return change


def normalised(adata):
    adata.X = adata.X * 0.5


def ensembl(adata):
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]


def cells_of(folder, change):
    """Write a section's cells as ingest does, changed."""
    adata = tokens.cells_file("s", ["train", "validation", "test"], tokens.GENES)
    change(adata)
    store.write_h5ad(folder / "s.h5ad", adata)
    return folder / "s.h5ad"


SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def split(names, guard_um=1.0):
    """Assign splits to cells of the named blocks, 10 µm apart."""

    def broken(folder):
        place = np.column_stack([10.0 * np.arange(len(names)), np.zeros(len(names))])
        rng = np.random.default_rng(0)
        parts = blocks.assign_splits(np.array(names, object), SHARES, rng, "tile", "s")
        blocks.guard(parts, place, guard_um, "s")

    return broken


def graph(terms=None, extra="", rows=(), panel=("A", "B"), **options):
    """Build concepts of an ontology graph and annotation."""
    return lambda folder: ontologies.build(folder, list(rows), list(panel), terms, extra, **options)


def annotation(content):
    def broken(folder):
        obo = ontologies.write_obo(folder / "x.obo")
        (folder / "x.gaf").write_text(content)
        from interptfm import ontology

        ontology.from_obo_gaf(obo, folder / "x.gaf", ["A"], min_genes=1, max_fraction=1.0)

    return broken


def table(rows=ontologies.ROWS, change=None, **options):
    """Build concepts of a table in the shape of g:Profiler's."""

    def broken(folder):
        from interptfm import ontology

        path = ontologies.write_table(folder / "t.csv", ontologies.GENES, rows)
        if change:
            path.write_text(change(path.read_text()))
        options.setdefault("panel", ["A", "B"])
        panel = options.pop("panel")
        ontology.from_gprofiler_csv(path, panel, **{"min_genes": 1, "max_fraction": 1.0, **options})

    return broken


def model(change):
    """Load a scGPT checkpoint after a change of its folder."""

    def broken(folder):
        path = folder / "model"
        checkpoint.save(path, models.build(), models.VOCABULARY, {"init": "trained"})
        change(path)
        checkpoint.load(path)

    return broken


def args(**changes):
    def change(path):
        found = json.loads((path / "args.json").read_text()) | changes
        content = {key: value for key, value in found.items() if value is not ...}
        (path / "args.json").write_text(json.dumps(content))

    return change


def weights(change):
    return lambda path: models.rewrite(path, change)


class Attack:
    """What runs code when it is unpickled: creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def embedded(cell="s:1_1", gene="A", layer=0):
    """Convert the states of two tokens that another model left."""

    def broken(folder):
        from interptfm import embeddings

        names = [str(cell), "s:1_2"]
        parts = [{layer: np.zeros((2, 4), np.float32)}]
        path = folder / "s.h5ad"
        embeddings.write_tokens(path, np.arange(2), np.arange(2), names, [gene, "B"], [layer], 4, parts)
        counts, everyone = sparse.csr_matrix(np.ones((2, 2), np.float32)), np.ones(2, bool)
        cells = ["s:1_1", "s:1_2"]
        embeddings.convert(folder / "x.zarr.zip", path, None, counts, ["A", "B"], cells, everyone, [0])

    return broken


def shard(symbols=None, layers=(0,), values=None, **options):
    """Extract activations of two cells with a small random model."""

    def broken(folder):
        network = models.build()
        if values is not None:
            network.encoder.embedding.weight.data[:] = values
        path = folder / "model"
        checkpoint.save(path, network, models.VOCABULARY, {"genes": "all", "excluded_genes": []})
        loaded = activations.load_model(path)
        genes = (
            [t for t in models.VOCABULARY.tokens if not t.startswith("<")][:3] if symbols is None else symbols
        )
        counts = sparse.csr_matrix(np.ones((2, len(genes)), np.float32))
        activations.write_shard(
            folder / "0.zarr.zip", loaded, counts, genes, ["s:1_1", "s:1_2"], np.ones(2, bool), layers,
            **options,
        )  # fmt: skip

    return broken


def stored(damage):
    """Read an activation store after damage to its bytes."""

    def broken(folder):
        one = np.ones((40, 3), np.float32)
        path = tokens.write_activations(folder / "0.zarr.zip", "s", np.arange(40) % 6, np.arange(40), one)
        path.write_bytes(damage(path.read_bytes()))
        with store.open_activations(path) as opened:
            opened.rows(0, 0, 40)

    return broken


def encoded(splits=("train", "validation", "test"), sample="s", genes=tokens.GENES, **options):
    """Count the firings of one store over cells of one sample."""

    def broken(folder):
        one = np.ones((3, 2), np.float32)
        path = tokens.write_activations(folder / "0.zarr.zip", "s", np.arange(3), np.arange(3), one)
        adata = tokens.cells_file(sample, list(splits), list(genes))
        tokens.extracted([adata], [path], tokens.Positive(2), **options)

    return broken


def dictionary(change):
    """Load a dictionary in SAELens' format after a change of its folder."""

    def broken(folder):
        tokens.dictionary(folder)
        change(folder)
        features.Dictionary(folder)

    return broken


def cfg(**changes):
    def change(folder):
        found = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({**found, **changes}))

    return change


def flipped(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return change


def firing(n_genes=4):
    counts = np.ones((3, n_genes, 2, 1), np.int32)
    full = np.full((3, n_genes), 5, np.int64)
    return features.Firing(counts, full, [f"G{i}" for i in range(n_genes)], [0])


def aligned(membership=None, n_terms=None, genes=None, given=None, **options):
    """Align firing counts of four genes with a membership."""

    def broken(folder):
        members = sparse.csr_matrix(np.eye(4, 3) if membership is None else membership)
        terms = pd.DataFrame({"term_id": [f"T{i}" for i in range(n_terms or members.shape[1])]})
        alignment.align(
            given or firing(), members, terms.assign(name="x"), genes or [f"G{i}" for i in range(4)],
            generator=np.random.default_rng(0),
            **{"permutations": 20, "strata": 2, "max_q": 0.05, "min_lift": 0.0, **options},
        )  # fmt: skip

    return broken


def tis_obsm(folder):
    path = cells_of(folder, lambda adata: None)
    units.obsm_units([path], SimpleNamespace(obs=pd.DataFrame(index=["s:1_0"])), "X_scGPT")


def tis_settings(**changes):
    def broken(folder):
        cells = units_of_tis.world(n=60, blocks=3)
        found = units_of_tis.evaluation(cells[0], **changes)
        from interptfm.tis import table

        table.evaluate(found, np.ones((60, 2), np.float32), 0)

    return broken


def embedding(content):
    def broken(folder):
        (folder / "genes.tsv").write_text(content)
        units.gene_table(folder / "genes.tsv")

    return broken


MANIFEST_HEADER = "\t".join(fetch.COLUMNS)


def manifest(row, header=MANIFEST_HEADER):
    return text("m.tsv", f"{header}\n{row}\n", fetch.read_manifest)


def changed_output(folder):
    path = folder / "results/r/x.json"
    store.write_json(path, 1)
    integrity.record([path], "a_rule")
    path.write_text("2\n")
    integrity.check([path])


def lost_output(folder):
    path = folder / "results/r/x.json"
    store.write_json(path, 1)
    integrity.record([path], "a_rule")
    path.unlink()
    integrity.check([path])


SECTION = "s\there\tcosmx\td\t0.18\t\t1\n"
EXPRESSION = "s_exprMat_file.csv"

# stage, what is broken, what is done with it, the sentence ({folder}: where the files lie).
# fmt: off
CASES: list[tuple[str, str, object, str]] = [
    ("config", "an unknown key", config("cells.min_gene", 3),
     "configuration: key 'cells': found the unknown key 'min_gene'; did you mean 'min_genes'?"),
    ("config", "a value of another type", config("seed", "one"),
     "configuration: key 'seed': found 'one', expected integer"),
    ("config", "a value out of bounds", config("alignment.permutations", 5),
     "configuration: key 'alignment.permutations': found 5, expected at least 20"),
    ("config", "a run that leaves results", config("run", "../x"),
     "configuration: key 'run': found '../x', expected a match of ^[A-Za-z0-9][A-Za-z0-9_-]*$"),
    ("config", "shares that do not sum to 1", config("cells.split.train", 0.7),
     "configuration: key 'cells.split': found shares that add up to 1.1, expected 1"),
    ("config", "a layer that the model lacks", config("activations.layers", [7]),
     "configuration: key 'activations.layers': found layer 7, expected 0 to 3, since the model has 4 "
     "layers"),
    ("config", "heads that do not divide the width", config("model.nheads", 3),
     "configuration: key 'model.nheads': found 3, expected a divisor of embsize 128"),
    ("config", "falling thresholds", config("features.thresholds", [0.5, 0.1]),
     "configuration: key 'features.thresholds': found [0.5, 0.1], expected rising values"),
    ("config", "more active features than there are", config("dictionaries.0.k", 1025),
     "configuration: dictionary 'batchtopk': found k 1025, expected at most n_features = 64"),
    ("config", "a key of another architecture", config("dictionaries.0.l1_coefficient", 1),
     "configuration: key 'dictionaries.0': found the key 'l1_coefficient', which architecture "
     "'batchtopk' does not have; did you mean 'aux_coefficient'?"),
    ("config", "a checkpoint that is not there", config("model.checkpoint", "nowhere"),
     "configuration: key 'model.checkpoint': found no file nowhere/args.json, expected one"),
    ("config", "an ontology that is not there", config("ontology.gaf", "no.gaf"),
     "configuration: key 'ontology.gaf': found no file {root}/no.gaf, expected one"),
    ("config", "an arm that changes the seed", config("arms.untrained", {"seed": 2}),
     "configuration: arm 'untrained': found the key 'seed', which an arm cannot change"),
    ("config", "an environment that is no Python", config("environments", {"data": "/no/python"}),
     "configuration: key 'environments.data': found no executable /no/python, expected a Python"),
    ("config", "units of an unknown dictionary", config("tis.units.1.dictionary", "other"),
     "configuration: units 'features': found the dictionary 'other', expected one of batchtopk"),
    ("config", "compartments of unknown units", config("regions.units", "other"),
     "configuration: key 'regions.units': found 'other', expected one of cls, features"),
    ("config", "malformed YAML", text("c.yaml", "a: [1", settings.load_yaml),
     "{folder}/c.yaml: found malformed YAML (while parsing a flow sequence in \"<unicode string>\", line "
     "1, column 4: a: [1 ^ expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 1, "
     "column 6: a: [1 ^)"),
    ("config", "a YAML tag that runs code",
     text("c.yaml", "!!python/object/apply:os.getcwd []", settings.load_yaml),
     "{folder}/c.yaml: found malformed YAML (could not determine a constructor for the tag "
     "'tag:yaml.org,2002:python/object/apply:os.getcwd' in \"<unicode string>\", line 1, column 1: "
     "!!python/object/apply:os.getcwd [] ^)"),
    ("sheet", "no file", text("samples.tsv", None, lambda path: settings.read_samples(path, {})),
     "{folder}/samples.tsv: not found, expected the sample sheet of key 'samples'"),
    ("sheet", "no row", sheet(""),
     "{folder}/samples.tsv: found no rows, expected one per sample"),
    ("sheet", "a sample twice", sheet(SECTION + SECTION),
     "{folder}/samples.tsv: row 3: found sample 's' a second time, expected it once"),
    ("sheet", "no pixel size", sheet("s\there\tcosmx\td\t\t\t1\n"),
     "{folder}/samples.tsv: row 2: found no pixel_size_um, expected µm per pixel for format cosmx (0.18 "
     "or 0.12028)"),
    ("sheet", "shards in words", sheet("s\there\tcosmx\td\t0.18\t\tmany\n"),
     "{folder}/samples.tsv: row 2: key 'shards': found 'many', expected integer"),
    ("sheet", "an unknown format", sheet("s\there\txenium\td\t0.18\t\t1\n"),
     "{folder}/samples.tsv: row 2: key 'format': found 'xenium', expected one of cosmx, h5ad, "
     "h5ad_nonspatial"),
    ("sheet", "a name that is a path", sheet("../s\there\tcosmx\td\t0.18\t\t1\n"),
     "{folder}/samples.tsv: row 2: key 'sample': found '../s', expected a match of "
     "^[A-Za-z0-9][A-Za-z0-9_-]*$"),
    ("sheet", "a folder without flat files", sheet(SECTION),
     "sample 's': found 0 files *_exprMat_file.csv[.gz] in {folder}/here, expected one"),
    ("sheet", "a simulated section outside results",
     sheet("s\t../../x\tcosmx\td\t0.18\t\t1\n", simulated=True),
     "sample 's': found path '../../x', expected one inside the simulation's folder, since "
     "simulate.enabled writes it"),
    ("sheet", "an h5ad that is not there", sheet("s\tx.h5ad\th5ad\td\t1\t\t1\n"),
     "sample 's': found no file {folder}/x.h5ad, expected one"),
    ("fetch", "another header", manifest("", header="name\turl"),
     "{folder}/m.tsv: found the columns name, url, expected name, kind, url, sha256, bytes, licence, "
     "path"),
    ("fetch", "a path that leaves the data folder", manifest("a\tfile\thttps://x.org/a\t\t\tCC0\t../a"),
     "{folder}/m.tsv: row 2: found path '../a', expected one inside the data folder"),
    ("fetch", "a local address", manifest("a\tfile\tfile:///etc/passwd\t\t\tCC0\ta"),
     "{folder}/m.tsv: row 2: found url 'file:///etc/passwd', expected http or https"),
    ("fetch", "a short digest", manifest("a\tfile\thttps://x.org/a\tabc\t\tCC0\ta"),
     "{folder}/m.tsv: row 2: found sha256 'abc', expected 64 hexadecimal digits or nothing"),
    ("simulate", "an unknown setting", lambda f: simulate.simulate({"cell": 3}, ["s"], 1, None),
     "simulate: found setting 'cell', expected one of ['cells', 'communication', 'fovs_per_section', "
     "'negative_probes', 'strength']"),
    ("ingest", "an empty file of counts", flat(lambda t: ""),
     "s_exprMat_file.csv: found an empty file, expected a CSV with a header"),
    ("ingest", "a header without rows", flat(lambda t: "fov,cell_ID,A\n"),
     "s_exprMat_file.csv: found a header and no rows, expected one row a cell"),
    ("ingest", "no gene column", flat(lambda t: t[["fov", "cell_ID", "NegPrb1"]]),
     "s_exprMat_file.csv: found no gene column in the header (3 columns, the first ['fov', 'cell_ID', "
     "'NegPrb1']), expected one column a gene beside fov and cell_ID"),
    ("ingest", "no cell identifier", flat(lambda t: t.drop(columns="cell_ID")),
     "s_exprMat_file.csv: found no cell identifier among the columns ['fov', 'KRT19', 'CD3E', 'COL1A1', "
     "'LTF', 'NegPrb1', 'NegPrb2'], expected cell_ID, cell_id or cell"),
    ("ingest", "no FOV", flat(lambda t: t.drop(columns="fov")),
     "s_exprMat_file.csv: found no FOV (no column fov or FOV, and cell_ID is not of the form "
     "c_<slide>_<fov>_<cell>), expected one of them"),
    ("ingest", "a gene column twice", flat(lambda t: t.rename(columns={"LTF": "KRT19"})),
     "s_exprMat_file.csv: found column 'KRT19' twice in the header, expected every name once"),
    ("ingest", "a negative count", flat(lambda t: put(t, 9, "CD3E", -2)),
     "s_exprMat_file.csv, row 11 (FOV 3, cell 4), column CD3E: found -2, expected a raw count (a whole "
     "number of 0 or more)"),
    ("ingest", "a fractional count", flat(lambda t: put(t, 9, "CD3E", 1.5)),
     "s_exprMat_file.csv, row 11 (FOV 3, cell 4), column CD3E: found 1.5, expected a raw count (a whole "
     "number of 0 or more)"),
    ("ingest", "a missing count", flat(lambda t: put(t, 9, "CD3E", np.nan)),
     "s_exprMat_file.csv, row 11 (FOV 3, cell 4), column CD3E: found a missing value (NaN), expected a "
     "raw count (a whole number of 0 or more)"),
    ("ingest", "a count in words", flat(lambda t: put(t, 9, "CD3E", "many")),
     "s_exprMat_file.csv, row 11, column CD3E: found 'many', expected a count"),
    ("ingest", "a row that is too short", flat(lambda t: "fov,cell_ID,A,B\n1,1,1,0\n1,2,3\n"),
     "s_exprMat_file.csv, row 3: found 3 fields, expected 4 as in the header"),
    ("ingest", "a cell twice", flat(lambda t: put(t, 7, "cell_ID", 1)),
     "s_exprMat_file.csv: found FOV 3, cell 1 twice (1 repeated rows in all), expected every FOV/cell "
     "pair once"),
    ("ingest", "a truncated gzip file", flat(change_file=truncated),
     "s_exprMat_file.csv.gz: found a truncated gzip stream, expected a complete file"),
    ("ingest", "counts that are not there", flat(change_file=lambda p: p.with_name("gone.csv")),
     "{folder}/gone.csv: found no such file, expected a CosMx flat file"),
    ("ingest", "cells without counts", flat(lambda t: t.drop(index=[2, 5])),
     "s_exprMat_file.csv: found no row for 2 of 12 cells of s_metadata_file.csv (first FOV 1, cell 3), "
     "expected the same cells in both files"),
    ("ingest", "no cell with enough genes", flat(min_genes=9),
     "s_exprMat_file.csv: found no cells left of 12 rows (0 cell_ID 0, 0 no counts, 12 under min_genes),"
     " expected at least one cell with 9 detected genes (min_genes)"),
    ("ingest", "no coordinates", flat(meta=lambda t: t[["fov", "cell_ID"]]),
     "s_metadata_file.csv: found no coordinates among 2 columns, expected CenterX_global_px and "
     "CenterY_global_px, their mm form, or CenterX_local_px and CenterY_local_px"),
    ("ingest", "a coordinate in words", flat(meta=lambda t: put(t, 3, "CenterX_global_px", "left")),
     "s_metadata_file.csv, row 5, column CenterX_global_px: found 'left', expected a number"),
    ("ingest", "a missing coordinate",
     flat(meta=lambda t: put(t, 3, "CenterX_global_px", np.nan).astype({"CenterX_global_px": float})),
     "s_metadata_file.csv: found no coordinates for 1 cells (first FOV 1, cell 4), expected "
     "CenterX_global_px and CenterY_global_px for every cell"),
    ("ingest", "pixels of another instrument", flat(pixel_size_um=18.0),
     "s_metadata_file.csv: found a median distance of 900 µm to the nearest cell with pixel_size_um "
     "18.0, expected 1 to 100 µm; check pixel_size_um and the unit of the coordinates"),
    ("ingest", "no column of cell types", flat(label_column="kinds"),
     "cell_types: found no column 'kinds' in s_metadata_file.csv, expected one of ['fov', 'cell_ID', "
     "'Area', 'CenterX_local_px', 'CenterY_local_px', 'CenterX_global_px', 'CenterY_global_px', "
     "'Mean.PanCK', 'Mean.CD298/B2M', 'Mean.CD45', 'kind']"),
    ("ingest", "normalised values instead of counts", annotated(normalised),
     "s.h5ad: found no raw counts (X holds 1.5 in row cell0, column KRT19), expected whole numbers of 0 "
     "or more in layers['counts'], X or raw"),
    ("ingest", "AnnData without coordinates", annotated(assign("obsm", "spatial", None)),
     "s.h5ad: found no obsm['spatial'] (obsm has []), expected coordinates, or the format "
     "h5ad_nonspatial for cells without any"),
    ("ingest", "Ensembl ids without symbols", annotated(ensembl),
     "s.h5ad: found Ensembl ids as var_names (ENSG00000000000) and no symbols, expected gene symbols in "
     "var_names or in one of the var columns symbol, gene_symbol, gene_symbols, gene_name, gene_names, "
     "feature_name"),
    ("ingest", "an h5ad that is none",
     text("s.h5ad", "no hdf5", lambda p: cosmx.read_cells({"h5ad": p}, "h5ad", 1.0)),
     "{folder}/s.h5ad: found a damaged file (Unable to synchronously open file (file signature not "
     "found)), expected AnnData (.h5ad)"),
    ("ingest", "too few blocks", split(["a"] * 5 + ["b"] * 5),
     "cells.blocks: found 2 blocks of unit tile in sample 's', expected at least 3 to make train, "
     "validation and test of whole blocks; use a smaller size_um"),
    ("ingest", "a guard that leaves nothing", split([f"b{i // 3}" for i in range(15)], guard_um=100.0),
     "cells.blocks.guard_um: found no validation cell of sample 's' farther than 100 µm from another split, "
     "expected a guard that leaves some of 3 cells; use larger blocks"),
    ("ingest", "more shards than cells", lambda f: blocks.assign_shards(3, 9, "s"),
     "shards: found 9 for sample 's', expected 1 to 3 (the number of its cells)"),
    ("concepts", "a cycle",
     graph({"T:a": (ontologies.BP, ["is_a T:b"]), "T:b": (ontologies.BP, ["is_a T:a"])}),
     "x.obo: found a cycle through T:a, T:b, expected an acyclic graph"),
    ("concepts", "a term twice", graph(extra="[Term]\nid: T:a\nname: again\n"),
     "x.obo: line 45: found term T:a a second time, expected once"),
    ("concepts", "a line without a tag", graph(extra="[Term]\nid T:x\n"),
     "x.obo: line 45: found a [Term] without an id"),
    ("concepts", "an unknown relation", graph(rows=[ontologies.gaf_row("A", "T:a")], relations=["causes"]),
     "ontology.relations: found ['causes'], expected some of ['is_a', 'part_of']"),
    ("concepts", "an unknown evidence code", graph(rows=[ontologies.gaf_row("A", "T:a")], evidence=["XYZ"]),
     "ontology.evidence: found ['XYZ'], expected some of ['EXP', 'IDA', 'IPI', 'IMP', 'IGI', 'IEP', "
     "'HTP', 'HDA', 'HMP', 'HGI', 'HEP', 'IBA', 'IBD', 'IKR', 'IRD', 'ISS', 'ISO', 'ISA', 'ISM', 'IGC', "
     "'RCA', 'TAS', 'NAS', 'IC', 'IEA', 'ND']"),
    ("concepts", "an annotation without a version", annotation("UniProt\tP1\tA\n"),
     "x.gaf: found gaf-version None before the first row (line 1), expected a line '!gaf-version: ' with"
     " one of ('2.0', '2.1', '2.2')"),
    ("concepts", "an annotation cut short", annotation("!gaf-version: 2.2\nUniProt\tP1\tA\n"),
     "x.gaf: line 2: found 3 tab-separated columns, expected 15 to 17"),
    ("concepts", "an annotation without rows", annotation("!gaf-version: 2.2\n"),
     "x.gaf: found no annotation row, expected at least one"),
    ("concepts", "other gene symbols", graph(rows=[ontologies.gaf_row("Mki67", "T:a")]),
     "x.gaf.gz: found none of the 2 panel genes in column 3 or 11 (panel: A, B; file: Mki67), expected "
     "the same kind of gene symbol"),
    ("concepts", "no term of the sizes asked for", graph(rows=[ontologies.gaf_row("A", "T:a")], min_genes=2),
     "ontology: found no term with at least 2 genes and at most 1 of the 2 panel genes, expected one or "
     "more (terms_read 7, terms_obsolete 0, edges 7, edges_dropped_parent_absent 0, annotations_read 1, "
     "annotations_positive 1, annotations_negated 0, annotations_cancelled_by_not 0, genes_in_panel 2, "
     "genes_matched_by_symbol 1, genes_matched_by_synonym 0, genes_with_ambiguous_synonym 0, "
     "genes_annotated 1, terms_with_genes 2, terms_with_min_genes 0, terms_in_size 0)"),
    ("concepts", "a table without its columns", table(change=lambda t: t.replace("term_size", "size")),
     "t.csv: found no column 'term_size' among ['source', 'term_name', 'term_id', 'highlighted', "
     "'adjusted_p_value', 'negative_log10_of_adjusted_p_value', 'size', 'query_size', "
     "'intersection_size', 'effective_domain_size'], expected the ten leading columns of a g:GOSt export"),
    ("concepts", "a term twice in the table", table(rows=ontologies.ROWS + ontologies.ROWS[:1]),
     "t.csv: found term id 'GO:1' twice (1 repeated rows), expected each once"),
    ("concepts", "a table of other genes", table(panel=["X", "Y"]),
     "t.csv: found none of the 2 panel genes among 5 gene columns (panel: X, Y; table: A, B, C), "
     "expected the same kind of gene symbol"),
    ("model", "no arguments", model(lambda p: (p / "args.json").unlink()),
     "{folder}/model/args.json: not found, expected scGPT's args.json"),
    ("model", "arguments that are no JSON", model(lambda p: (p / "args.json").write_text("{")),
     "{folder}/model/args.json: no valid JSON (Expecting property name enclosed in double quotes: line 1"
     " column 2 (char 1)), expected scGPT's args.json"),
    ("model", "arguments without the width", model(args(embsize=...)),
     "{folder}/model: args.json: embsize missing, found MVC, cell_emb_style, d_hid, dropout, "
     "fast_transformer, init, input_emb_style, input_style, ..."),
    ("model", "an unsupported input", model(args(input_emb_style="category")),
     "{folder}/model: model config: input_emb_style is 'category', only 'continuous' is supported"),
    ("model", "two genes of one id", model(lambda p: (p / 'vocab.json').write_text('{"a": 0, "b": 0}')),
     "{folder}/model/vocab.json: token 'b' has id 0, expected each of 0..1 once"),
    ("model", "no weights", model(lambda p: (p / "best_model.pt").unlink()),
     "{folder}/model/best_model.pt: not found, expected scGPT's weights"),
    ("model", "weights that run code",
     model(lambda p: torch.save({"w": Attack(p / "ran")}, p / "best_model.pt")),
     "{folder}/model/best_model.pt: refused, as it is no plain file of tensors (Weights only load "
     "failed); expected a state dict"),
    ("model", "weights cut short",
     model(lambda p: (p / "best_model.pt").write_bytes((p / "best_model.pt").read_bytes()[:900])),
     "{folder}/model/best_model.pt: unreadable (PytorchStreamReader failed reading zip archive: failed "
     "finding central directory), expected a state dict"),
    ("model", "a weight of another shape",
     model(weights(lambda w: w.update({"encoder.enc_norm.weight": torch.ones(3)}))),
     "{folder}/model/best_model.pt: key encoder.enc_norm.weight has shape (3,), expected (24,) by "
     "args.json and the vocabulary"),
    ("model", "a weight that is missing", model(weights(lambda w: w.pop("encoder.enc_norm.weight"))),
     "{folder}/model/best_model.pt: key encoder.enc_norm.weight is missing, expected shape (24,)"),
    ("model", "a weight that is not a number",
     model(weights(lambda w: w["encoder.enc_norm.weight"].fill_(torch.nan))),
     "{folder}/model/best_model.pt: key encoder.enc_norm.weight (torch.float32) must hold finite real "
     "numbers"),
    ("embeddings", "a cell that is not there", embedded(cell="mine"),
     "{folder}/s.h5ad: found 1 cells such as 'mine', expected names of the cells file of the sample, such as "
     "'s:1_1'"),
    ("embeddings", "a layer that is not there", embedded(layer=7),
     "{folder}/s.h5ad: found layer_7 in obsm, expected 'layer_0' (activations.layers)"),
    ("activations", "foreign gene names", shard(symbols=["ENSG1", "ENSG2", "ENSG3"]),
     "vocabulary: 0 of 3 genes found, expected at least 50%; the data names genes like ENSG1, ENSG2, "
     "ENSG3, the vocabulary like GENE0, GENE1, GENE2, GENE3"),
    ("activations", "a layer that the model lacks", shard(layers=(9,)),
     "activations.layers: found layer 9, expected 0 to 2: the model has 3 layers"),
    ("activations", "an unknown type", shard(dtype="float8"),
     "activations.dtype: found 'float8', expected one of float16, float32, bfloat16"),
    ("activations", "a store cut short", stored(lambda b: b[:len(b) // 2]),
     "{folder}/0.zarr.zip: found a damaged file (File is not a zip file), expected the complete output "
     "of an earlier rule; delete it and run again"),
    ("activations", "a flipped bit in a store", stored(lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:]),
     "{folder}/0.zarr.zip: found a damaged file (Bad CRC-32 for file 'gene/zarr.json'), expected the "
     "complete output of an earlier rule; delete it and run again"),
    ("activations", "a store that is none", stored(lambda b: b"text"),
     "{folder}/0.zarr.zip: found a damaged file (File is not a zip file), expected the complete output "
     "of an earlier rule; delete it and run again"),
    ("dictionaries", "an unknown architecture", dictionary(cfg(architecture="vae")),
     "{folder}/cfg.json: found architecture 'vae', expected one of standard, jumprelu, topk, gated"),
    ("dictionaries", "weights of another size", dictionary(cfg(d_in=7, metadata={})),
     "{folder}/sae_weights.safetensors: found W_enc float32 (5, 12), expected float32 (7, 12)"),
    ("dictionaries", "a flipped bit", dictionary(flipped("sae_weights.safetensors")),
     "{folder}/sae_weights.safetensors: found SHA-256 9f719bd0c2b8…, expected d8e279c7ea3d… as cfg.json "
     "says; the file is damaged or belongs to another dictionary"),
    ("dictionaries", "no weights", dictionary(lambda f: (f / "sae_weights.safetensors").unlink()),
     "{folder}/sae_weights.safetensors: not found, expected the weights beside cfg.json"),
    ("dictionaries", "settings cut short", dictionary(lambda f: (f / "cfg.json").write_text("{")),
     "{folder}/cfg.json: found malformed JSON (Expecting property name enclosed in double quotes: line 1"
     " column 2 (char 1)), expected a JSON document"),
    ("dictionaries", "nothing to import", lambda f: importing.load_folder(f),
     "{folder}: found neither cfg.json nor config.json, expected SAELens or dictionary_learning files"),
    ("features", "a store of an unknown sample", encoded(sample="t"),
     "{folder}/0.zarr.zip: found sample 's', expected one of ['t']"),
    ("features", "cells that are not in the file", encoded(splits=["train", "test"]),
     "{folder}/0.zarr.zip: found cell 2 and gene 2, expected indices into the 2 cells and 6 genes of "
     "sample 's'"),
    ("features", "an unknown split", encoded(splits=["train", "dev", "test"]),
     "s: found split 'dev' in obs, expected ['train', 'validation', 'test', 'guard']"),
    ("features", "a gene twice", encoded(genes=["A", "A", "C"]),
     "s: found gene 'A' twice in var, expected it once"),
    ("features", "no training cell", encoded(splits=["test"] * 3),
     "activations: found no token of a training cell, expected at least one"),
    ("features", "falling thresholds", encoded(thresholds=[0.5, 0.1]),
     "thresholds: found [0.5, 0.1], expected increasing, in [0, 1)"),
    ("alignment", "no term", aligned(membership=np.zeros((4, 0))),
     "membership: found no term, expected at least one"),
    ("alignment", "other genes", aligned(genes=["a", "b", "c", "d"]),
     "membership: found genes such as a, b, c, expected some of the panel's such as G0, G1, G2"),
    ("alignment", "terms of another number", aligned(n_terms=5),
     "terms: found 5 rows, expected 3, one a column of the membership"),
    ("alignment", "genes of another number", aligned(genes=["G0", "G1"]),
     "membership: found 4 rows, expected 2, one a gene"),
    ("alignment", "too few permutations", aligned(permutations=2),
     "alignment.permutations: found 2, expected at least 3"),
    ("alignment", "a threshold from elsewhere", aligned(threshold_from="train"),
     "alignment.threshold_from: found 'train', expected validation or test"),
    ("alignment", "a membership that is none", text("membership.npz", b"PK no", alignment.read_membership),
     "{folder}/membership.npz: found no sparse matrix (This file contains pickled (object) data. If you "
     "trust the file you can load it unsafely using the `allow_pickle=` keyword argument or "
     "`pickle.load()`.), expected membership.npz"),
    ("tis", "cells without types", lambda f: units.read_cells([cells_of(f, lambda adata: None)]),
     "{folder}/s.h5ad: found no obs column 'cell_type', expected cells as ingest writes them"),
    ("tis", "no such obsm", tis_obsm,
     "{folder}/s.h5ad: found no obsm key 'X_scGPT', expected it among none"),
    ("tis", "an embedding without genes", embedding("symbol\tx\nA\t1\n"),
     "{folder}/genes.tsv: found the columns ['symbol', 'x'], expected 'gene' and dimensions"),
    ("tis", "an embedding with words", embedding("gene\tx\nA\tbig\n"),
     "{folder}/genes.tsv: found text among the dimensions, expected numbers"),
    ("tis", "an arm that hides nothing", lambda f: units.visible(["A", "B"], set()),
     "tis.held_out_arm: found an arm that sees 2 of 2 genes, expected a part of them, so that the others"
     " can judge"),
    ("tis", "tails of all cells", tis_settings(quantile=0.7),
     "tis.quantile: found 0.7, expected more than 0 and at most 0.5"),
    ("recovery", "no excess at any layer", lambda f: recovery.choose_layer({0: np.nan}),
     "recovery: found validation excess {0: nan}, expected a finite number for one layer or more"),
    ("report", "a section without its table",
     lambda f: report.read([], name="r", config={}, samples=["s"], simulated=False, qc=[],
      qc_figures=[], query=f, terms=f, model_metrics=f, model_training=f),
     "report: found 0 files of qc, expected one for each of ['s']"),
    ("store", "a table that is not there", text("t.parquet", None, store.read_table),
     "{folder}/t.parquet: not found"),
    ("store", "a table cut short", text("t.parquet", b"PAR1", store.read_table),
     "{folder}/t.parquet: found a table that cannot be read (Could not open Parquet input source "
     "'<Buffer>': Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes)), "
     "expected a table"),
    ("store", "a document cut short", text("x.json", "{", store.read_json),
     "{folder}/x.json: found malformed JSON (Expecting property name enclosed in double quotes: line 1 "
     "column 2 (char 1)), expected a JSON document"),
    ("store", "cells cut short", text("c.h5ad", b"\x89HDF\r\n\x1a\n", store.read_h5ad),
     "{folder}/c.h5ad: found a damaged file (Unable to synchronously open file (bad byte number in an "
     "address)), expected AnnData (.h5ad)"),
    ("store", "an output that was changed", changed_output,
     "{folder}/results/r/x.json: found a damaged or edited file (sha256:53c234e5…), expected what rule "
     "a_rule wrote (sha256:4355a46b…); delete it and run again"),
    ("store", "an output that is gone", lost_output,
     "{folder}/results/r/x.json: not found, expected the output of an earlier rule; run again"),
    ("verify", "a run without a record", provenance.verify,
     "{folder}: found no provenance.json, expected a finished run"),
]
# fmt: on


def sentence(broken, folder: Path) -> str:
    """Return what a user reads, with the places of this machine taken out."""
    with pytest.raises(InputError) as caught:
        broken(folder)
    return str(caught.value).replace(str(folder), "{folder}").replace(str(ROOT), "{root}")


@pytest.mark.parametrize("stage, what, broken, message", CASES, ids=[f"{s}: {w}" for s, w, *_ in CASES])
def test_bad_input_gets_one_sentence(tmp_path, stage, what, broken, message):
    found = sentence(broken, tmp_path)
    assert found == message
    assert "\n" not in found and "Traceback" not in found
    assert not list(tmp_path.rglob("ran")), "code of a pickle ran"


def test_the_catalogue_covers_the_stages():
    assert len(CASES) >= 60 and len({(stage, what) for stage, what, *_ in CASES}) == len(CASES)
    assert {stage for stage, *_ in CASES} >= set(settings.STAGES) - {"simulated", "cells"} | {"tis", "report"}


# --- through a script: one line in the log, exit code 1, nothing written -----------------------------------


def rule(folder: Path, **given):
    """What Snakemake hands to a script, as far as job.run looks at it."""
    return SimpleNamespace(
        input=list(given.get("inputs", [])), output=[folder / "out.json"], rule="a_rule", threads=1,
        log=[str(given.get("log", folder / "log"))], wildcards={},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """job.run sets variables and handlers for a process of its own."""
    for variable in job.THREAD_VARIABLES:
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    for variable, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")):
        monkeypatch.setenv(variable, os.environ.get(variable, value))
    monkeypatch.setattr(job.log, "handlers", [])
    monkeypatch.setattr(job.log, "propagate", False)


REFUSALS = [
    (InputError("x.csv: found a, expected b"), "a_rule: x.csv: found a, expected b"),
    (
        OSError(28, "No space left on device", "out.json"),
        "a_rule: out.json: found no space left on the disk, expected room for the outputs; "
        "make room and run again",
    ),
    (
        PermissionError(13, "Permission denied", "out.json"),
        "a_rule: out.json: permission denied, expected a file or folder that this user may read and write",
    ),
    (
        OSError(30, "Read-only", "o"),
        "a_rule: o: found a read-only file system, expected one that can be written",
    ),
]


@pytest.mark.parametrize("error, message", REFUSALS, ids=[type(e).__name__ for e, _ in REFUSALS])
def test_a_users_error_has_no_traceback(tmp_path, capsys, error, message):
    with pytest.raises(SystemExit) as end, job.run(rule(tmp_path)):
        raise error
    assert end.value.code == 1
    for written in ((tmp_path / "log").read_text(), capsys.readouterr().err):
        lines = [line for line in written.splitlines() if " ERROR " in line]
        assert len(lines) == 1 and lines[0].endswith(message) and "Traceback" not in written
    assert not (tmp_path / "out.json").exists()


def test_a_full_disk_is_named_whatever_a_library_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=4096))
    with pytest.raises(SystemExit), job.run(rule(tmp_path)):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    written = capsys.readouterr().err
    assert "found no space left on the disk" in written and "Traceback" not in written


def test_a_defect_keeps_its_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit), job.run(rule(tmp_path, log=tmp_path / "log")):
        raise ZeroDivisionError("division by zero")
    assert "Traceback" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_hides_no_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit), job.run(rule(tmp_path, log=tmp_path / "file/log")):
        raise InputError("x.csv: found a, expected b")
    assert "x.csv: found a, expected b" in capsys.readouterr().err


def test_a_mistake_in_a_file_ends_its_job_with_one_sentence(root, tmp_path):
    """Through Snakemake and the rule's own script: ingest of a section with a negative count."""
    for part in ("workflow", "scripts", "config", "resources", "envs"):
        shutil.copytree(root / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "s").mkdir()
    expression, meta = sections.tissue()
    sections.write(tmp_path / "s", put(expression, 9, "CD3E", -2), meta, sections.POSITIONS)
    (tmp_path / "samples.tsv").write_text(HEADER + "s\ts\tcosmx\td\t0.18\t\t1\n")
    (tmp_path / "own.yaml").write_text("run: own\nsamples: samples.tsv\nsimulate: {enabled: false}\n")
    done = run_snakemake(tmp_path, "cells", config="own.yaml")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    wanted = "ingest: s_exprMat_file.csv, row 11 (FOV 3, cell 4), column CD3E: found -2, expected a raw count"
    assert wanted in said and wanted in (tmp_path / "results/own/logs/ingest/s.log").read_text()
    assert not list((tmp_path / "results/own").glob("cells/*"))

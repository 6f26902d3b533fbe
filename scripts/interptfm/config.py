"""Configuration and sample sheet: validated against their schemas, arms resolved, layers counted.

Runs while Snakemake parses the workflow, hence standard library, PyYAML and jsonschema only.
"""

from __future__ import annotations

import copy
import csv
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from interptfm import fetch
from interptfm.errors import InputError
from interptfm.schema import check, with_defaults

Config = dict[str, Any]

# Stages in the order of the data, with the configuration keys that each reads and the stages it
# reads from. An arm repeats the stages whose keys it changes and all that depend on those.
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "simulated": (("simulate",), ()),
    "cells": (("cells.min_genes", "cells.blocks", "cells.split", "cells.clustering"), ("simulated",)),
    "concepts": (("ontology",), ("cells",)),
    "model": (("model", "cells.genes"), ("cells",)),
    "activations": (("activations",), ("model",)),
    "dictionaries": (("dictionaries",), ("activations",)),
    "features": (("features",), ("dictionaries",)),
    "alignment": (("alignment",), ("features", "concepts")),
}

# What an arm cannot change.
MAIN_ONLY = (
    *("run", "samples", "data_root", "fetch", "environments", "arms", "extras", "seed"),
    *("baselines", "reading", "tis", "regions", "activity", "crosstalk", "probes", "steering"),
    *("evidence", "annotate", "atlas", "gene_text", "comparators"),
)

# Representations other than dictionaries and raw neurons: of activations, and of genes alone.
BASELINES = ("pca", "nmf", "random", "static", "expression_pca", "expression_nmf")

ONTOLOGY_FILES = {"obo_gaf": ("obo", "gaf"), "gprofiler_csv": ("table",), "gprofiler": ()}


# Files of a dictionary's folder as SAELens and as dictionary_learning write them.
IMPORTED = (("cfg.json", "sae_weights.safetensors"), ("config.json", "ae.pt"))

FILES = "files"
"""The backend whose activations are read from files (:mod:`interptfm.embeddings`): no model is run."""
RESULTS = "results/"
"""Beginning of a path that a rule makes, which is relative to the project and not to ``data_root``."""
MOST_LAYERS = 96


def load_yaml(path: str | Path) -> Any:
    """Read YAML with the safe loader; :class:`InputError` names a missing or malformed file."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: found malformed YAML ({' '.join(str(error).split())})") from None


def merge(base: Config, override: Config) -> Config:
    """Return ``base`` with ``override`` laid over it: mappings key by key, everything else replaced.

    A mapping is laid over each mapping of a list: ``dictionaries: {k: 8}`` gives every dictionary this k.
    """
    result = copy.deepcopy(base)
    for key, value in override.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = merge(below, value)
        elif isinstance(value, dict) and isinstance(below, list) and all(isinstance(b, dict) for b in below):
            result[key] = [merge(item, value) for item in below]
        else:
            result[key] = copy.deepcopy(value)
    return result


def pick(config: Config, path: str) -> Any:
    """Return the value at a dotted key path, for example ``cells.blocks.size_um``."""
    value: Any = config
    for key in path.split("."):
        value = value[key]
    return value


def resolve(config: Config, schema: dict[str, Any]) -> dict[str, Config]:
    """Validate the configuration and return one full configuration per arm; the main arm is ``""``.

    Raises
    ------
    InputError
        On any violation of the schema or of the rules between keys, in the main configuration or in
        that of an arm.
    """
    check(config, schema, "configuration")
    config = with_defaults(config, schema)
    arms = {"": _ordered(config)}
    overrides = {**config["arms"], **config["extras"]["arms"]}
    for name, override in overrides.items():
        if override is None:
            continue
        for key in MAIN_ONLY:
            if key in override:
                raise InputError(
                    f"configuration: arm {name!r}: found the key {key!r}, which an arm cannot change"
                )
        merged = merge(config, override)
        check(merged, schema, f"configuration: arm {name!r}")
        arms[name] = _ordered(with_defaults(merged, schema))
    for name, settings in arms.items():
        label = f"configuration: arm {name!r}" if name else "configuration"
        _check_between_keys(settings, label, bool(name))
        # One conda environment serves the rule in all arms.
        backends = [arms[""]["model"]["backend"], settings["model"]["backend"]]
        if FILES not in backends and len(set(backends)) > 1:
            raise InputError(
                f"{label}: key 'model.backend': found {backends[1]!r}, expected {backends[0]!r} as in the "
                f"main arm, or {FILES}"
            )
    return arms


def _ordered(value: Any) -> Any:
    """Return a copy with the keys of all mappings sorted: Snakemake takes another order for a change."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _check_between_keys(config: Config, name: str, arm: bool) -> None:
    shares = config["cells"]["split"]
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise InputError(
            f"{name}: key 'cells.split': found shares that add up to {sum(shares.values()):g}, expected 1"
        )
    model = config["model"]
    if model["embsize"] % model["nheads"]:
        raise InputError(
            f"{name}: key 'model.nheads': found {model['nheads']}, "
            f"expected a divisor of embsize {model['embsize']}"
        )
    _check_files(config, name)
    thresholds = config["features"]["thresholds"]
    if thresholds != sorted(thresholds):
        raise InputError(f"{name}: key 'features.thresholds': found {thresholds}, expected rising values")
    dictionaries = [*config["dictionaries"], *config["extras"]["frontier"]]
    names = [dictionary["name"] for dictionary in dictionaries]
    for repeated in {n for n in names if names.count(n) > 1}:
        raise InputError(f"{name}: key 'dictionaries': found the name {repeated!r} twice, expected it once")
    ontology = config["ontology"]
    for key in ONTOLOGY_FILES[ontology["source"]]:
        if not ontology[key]:
            raise InputError(
                f"{name}: key 'ontology.{key}': found nothing, "
                f"expected a file for source {ontology['source']}"
            )
        place = Path(config["data_root"], ontology[key])
        require_file(place, f"{name}: key 'ontology.{key}'", fetched_files(config))
    for family, python in config["environments"].items():
        if not (Path(python).is_file() and os.access(python, os.X_OK)):
            raise InputError(
                f"{name}: key 'environments.{family}': found no executable {python}, expected a Python"
            )
    if config["dictionaries"][0]["tokens"] != "gene":
        raise InputError(
            f"{name}: key 'dictionaries.0.tokens': found 'cls', expected 'gene' for the first dictionary, "
            "which the report is about"
        )
    for dictionary in config["dictionaries"] if arm else dictionaries:
        _check_sizes(dictionary, f"{name}: dictionary {dictionary['name']!r}")
        for layer in dictionary_layers(config, dictionary, name):
            imported_files(dictionary, layer, name)


def _check_files(config: Config, name: str) -> None:
    """Check what has no meaning where activations are read from files, or only there."""
    model = config["model"]
    if model["backend"] != FILES:
        if model["embeddings"] is not None:
            raise InputError(
                f"{name}: key 'model.embeddings': found {model['embeddings']!r}, expected null, since "
                f"model.backend is {model['backend']} and not {FILES}"
            )
        return
    if model["embeddings"] is None:
        raise InputError(
            f"{name}: key 'model.embeddings': found null, expected the folder of the embeddings for "
            f"model.backend {FILES}"
        )
    if config["activations"]["layers"] == "all":
        raise InputError(
            f"{name}: key 'activations.layers': found all, expected a list of layers for model.backend "
            f"{FILES}, such as [0, 1]"
        )
    if not config["activations"]["gene_tokens"]:
        raise InputError(
            f"{name}: key 'activations.gene_tokens': found false, expected true for model.backend {FILES}; "
            "embeddings of cells alone are units of tis.units with source obsm"
        )
    fixed = (("model.init", model["init"], "trained"), ("cells.genes", config["cells"]["genes"], "all"))
    for key, found, expected in fixed:
        if found != expected:
            raise InputError(
                f"{name}: key {key!r}: found {found!r}, expected {expected!r} for model.backend {FILES}, "
                "whose model is not run here; drop the arm (null), or give it embeddings of such a model"
            )


def _check_sizes(dictionary: Config, name: str) -> None:
    n = dictionary.get("n_features", 0)
    if dictionary.get("k", 0) > n:
        raise InputError(f"{name}: found k {dictionary['k']}, expected at most n_features = {n}")
    if dictionary.get("training_tokens", 0) < dictionary.get("batch_tokens", 0):
        raise InputError(
            f"{name}: found training_tokens {dictionary['training_tokens']}, expected at least one batch "
            f"(batch_tokens = {dictionary['batch_tokens']})"
        )
    sizes = dictionary.get("prefix_sizes") or [n]
    if sizes != sorted(set(sizes)) or sizes[-1] != n:
        raise InputError(
            f"{name}: found prefix_sizes {sizes}, expected rising numbers that end with n_features = {n}"
        )


def fetched_files(config: Config) -> Collection[str]:
    """Return the files that the fetch rules provide (``fetch.enabled``), there already or not yet."""
    if not config["fetch"]["enabled"]:
        return ()
    return fetch.provided_files(fetch.read_manifest(config["fetch"]["manifest"]), config["data_root"])


def require_file(path: Path, name: str, fetched: Collection[str] = ()) -> Path:
    """Return ``path`` if it is there or will be fetched, else raise an :class:`InputError` naming the key."""
    if not path.is_file() and str(path) not in fetched:
        raise InputError(f"{name}: found no file {path}, expected one")
    return path


def checkpoint_files(config: Config, name: str = "configuration") -> list[str]:
    """Return args.json, vocab.json and best_model.pt of the given checkpoint; empty without one."""
    folder = config["model"]["checkpoint"]
    if folder is None or config["model"]["backend"] == FILES:
        return []
    files = [Path(folder, file) for file in ("args.json", "vocab.json", "best_model.pt")]
    fetched = fetched_files(config)
    return [str(require_file(file, f"{name}: key 'model.checkpoint'", fetched)) for file in files]


def embedding_files(config: Config, sample: str, name: str = "configuration") -> dict[str, str]:
    """Return the files of a sample's embeddings by role: ``tokens`` and, where there is one, ``cells``.

    ``model.embeddings`` is relative to ``data_root``, or begins with ``results/``: then a rule of the
    workflow makes the tokens' file, and ``{run}`` in it stands for the name of the run.

    Raises
    ------
    InputError
        For a folder without the tokens' file of the sample.
    """
    given = config["model"]["embeddings"]
    if given.startswith(RESULTS):
        return {"tokens": f"{given.replace('{run}', config['run'])}/{sample}.h5ad"}
    tokens, cells = (Path(config["data_root"], given, f"{sample}{end}") for end in (".h5ad", ".cells.h5ad"))
    if not tokens.is_file():
        note = f"; {cells} alone serves as units (tis.units with source obsm)" if cells.is_file() else ""
        raise InputError(
            f"{name}: key 'model.embeddings': found no file {tokens}, expected the embeddings of the "
            f"tokens of sample {sample!r}{note}"
        )
    return {"tokens": str(tokens), **({"cells": str(cells)} if cells.is_file() else {})}


def number_of_layers(config: Config, name: str = "configuration") -> int:
    """Return how many transformer layers the model has: from the checkpoint's args.json, or configured.

    The configured number also stands for a checkpoint that is yet to be fetched. How many layers files of
    embeddings have is not read here: the largest number that there may be.
    """
    if config["model"]["backend"] == FILES:
        return MOST_LAYERS
    files = checkpoint_files(config, name)
    if not files or not Path(files[0]).is_file():
        return int(config["model"]["nlayers"])
    try:
        return int(json.loads(Path(files[0]).read_text())["nlayers"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{files[0]}: found no 'nlayers', expected scGPT's args.json") from None


def layers(config: Config, name: str = "configuration") -> list[int]:
    """Return the layers to extract, sorted; :class:`InputError` for one that the model does not have."""
    count = number_of_layers(config, name)
    chosen = config["activations"]["layers"]
    if chosen == "all":
        return list(range(count))
    for layer in chosen:
        if layer >= count:
            raise InputError(
                f"{name}: key 'activations.layers': found layer {layer}, expected 0 to {count - 1}, "
                f"since the model has {count} layers"
            )
    return sorted(chosen)


def dictionary_layers(config: Config, dictionary: Config, name: str = "configuration") -> list[int]:
    """Return the layers of one dictionary; :class:`InputError` for one that is not extracted."""
    extracted = layers(config, name)
    if dictionary["layers"] in ("all", "last"):
        return extracted if dictionary["layers"] == "all" else extracted[-1:]
    for layer in dictionary["layers"]:
        if layer not in extracted:
            raise InputError(
                f"{name}: dictionary {dictionary['name']!r}: found layer {layer}, "
                f"expected one of the extracted layers {extracted}"
            )
    return sorted(dictionary["layers"])


def imported_files(dictionary: Config, layer: int, name: str = "configuration") -> list[str]:
    """Return the files of an ``imported`` dictionary of one layer; empty for the other kinds."""
    if dictionary["architecture"] != "imported":
        return []
    folder = Path(dictionary["path"].replace("{layer}", str(layer)))
    label = f"{name}: dictionary {dictionary['name']!r}"
    if not folder.is_dir():
        raise InputError(f"{label}: found no folder {folder}, expected one of SAELens or dictionary_learning")
    for files in IMPORTED:
        paths = [folder / file for file in files]
        if all(path.is_file() for path in paths):
            return [str(path) for path in paths]
    expected = " or ".join(" and ".join(files) for files in IMPORTED)
    raise InputError(f"{label}: found neither in {folder}, expected {expected}")


def repeated_stages(main: Config, arm: Config) -> set[str]:
    """Return the stages that an arm runs for itself: those whose keys differ and all downstream."""
    own: set[str] = set()
    for stage, (keys, upstream) in STAGES.items():
        if any(pick(main, key) != pick(arm, key) for key in keys) or own.intersection(upstream):
            own.add(stage)
    return own


def read_samples(path: str | Path, schema: dict[str, Any]) -> dict[str, Config]:
    """Read the sample sheet (TSV) into one dict per sample, validated, in the order of the sheet.

    Raises
    ------
    InputError
        For a missing file or column, a value against the schema, a sample listed twice.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected the sample sheet of key 'samples'") from None
    if not rows:
        raise InputError(f"{path}: found no rows, expected one per sample")
    samples: dict[str, Config] = {}
    for number, row in enumerate(rows, start=2):
        name = f"{path}: row {number}"
        sample = {key: _typed(key, value) for key, value in row.items()}
        check(sample, schema, name)
        if sample["sample"] in samples:
            raise InputError(f"{name}: found sample {sample['sample']!r} a second time, expected it once")
        if sample["format"] == "cosmx" and sample.get("pixel_size_um") is None:
            raise InputError(
                f"{name}: found no pixel_size_um, expected µm per pixel for format cosmx (0.18 or 0.12028)"
            )
        samples[sample["sample"]] = sample
    return samples


def _typed(key: str, value: str | None) -> Any:
    if value is None or value == "":
        return None
    try:
        if key == "shards":
            return int(value)
        if key == "pixel_size_um":
            return float(value)
    except ValueError:
        return value
    return value


SIMULATED_FILES = {
    "counts": "exprMat_file.csv",
    "metadata": "metadata_file.csv",
    "positions": "fov_positions_file.csv",
}


def sample_files(
    sample: Config, root: str | Path, simulated: bool, fetched: Collection[str] = ()
) -> dict[str, str]:
    """Return the input files of a sample by role: counts, metadata, positions, cell_types; or h5ad.

    Files that the simulator will write or that will be ``fetched`` are named without looking; others
    must be there.
    """
    folder = Path(root, sample["path"])
    name = f"sample {sample['sample']!r}"
    files: dict[str, str] = {}
    if sample["format"] != "cosmx":
        files["h5ad"] = str(require_file(folder, name, fetched))
    elif simulated:
        # The simulator writes there: a path that climbs would leave the results folder.
        for key in ("path", "cell_types"):
            if not _inside(sample.get(key) or ""):
                raise InputError(
                    f"{name}: found {key} {sample[key]!r}, expected one inside the simulation's folder, "
                    "since simulate.enabled writes it"
                )
        files = {role: str(folder / f"{sample['sample']}_{file}") for role, file in SIMULATED_FILES.items()}
    else:
        for role, file in SIMULATED_FILES.items():
            promised = str(folder / f"{sample['sample']}_{file}")
            files[role] = promised if promised in fetched else str(_only_match(folder, f"*_{file}", name))
    types = sample.get("cell_types")
    if types and not types.startswith("column:"):
        table = Path(root, types)
        wanted = table if simulated else require_file(table, f"{name}: cell_types", fetched)
        files["cell_types"] = str(wanted)
    return files


def _inside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _only_match(folder: Path, pattern: str, name: str) -> Path:
    matches = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
    if len(matches) != 1:
        raise InputError(f"{name}: found {len(matches)} files {pattern}[.gz] in {folder}, expected one")
    return matches[0]

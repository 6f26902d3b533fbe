"""Configuration and sample sheet: validated against their schemas, arms resolved, layers counted.

Runs while Snakemake parses the workflow, hence standard library, PyYAML and jsonschema only.
"""

from __future__ import annotations

import copy
import csv
import difflib
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from interptfm import fetch
from interptfm.errors import InputError

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
    *("baselines", "reading"),
)

# Representations other than dictionaries and raw neurons: of activations, and of genes alone.
BASELINES = ("pca", "nmf", "random", "static", "expression_pca", "expression_nmf")

ONTOLOGY_FILES = {"obo_gaf": ("obo", "gaf"), "gprofiler_csv": ("table",), "gprofiler": ()}


def load_yaml(path: str | Path) -> Any:
    """Read YAML with the safe loader; :class:`InputError` names a missing or malformed file."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: found malformed YAML ({' '.join(str(error).split())})") from None


def check(value: Any, schema: dict[str, Any], name: str) -> None:
    """Validate ``value`` against a JSON schema.

    Raises
    ------
    InputError
        One sentence on the most relevant violation: key, what was found, what was expected.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(value), key=lambda e: (len(e.path), str(e.path)))
    if errors:
        raise InputError(f"{name}: {_sentence(errors[0])}")


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    where = f"key {place!r}: " if place else ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(str(unknown), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return f"{where}found the unknown key {unknown!r}; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}found no key {missing!r}, expected it to be set"
    expected = {
        "type": lambda: f"expected {_words(error.validator_value)}",
        "enum": lambda: f"expected one of {_words(error.validator_value)}",
        "minimum": lambda: f"expected at least {error.validator_value}",
        "maximum": lambda: f"expected at most {error.validator_value}",
        "exclusiveMinimum": lambda: f"expected more than {error.validator_value}",
        "exclusiveMaximum": lambda: f"expected less than {error.validator_value}",
        "pattern": lambda: f"expected a match of {error.validator_value}",
        "oneOf": lambda: f"expected {error.schema.get('description', 'another value')}",
    }.get(error.validator, lambda: f"expected {error.validator} {error.validator_value}")
    return f"{where}found {error.instance!r}, {expected()}"


def _words(values: Any) -> str:
    return (
        ", ".join("null" if v is None else str(v) for v in values)
        if isinstance(values, list)
        else str(values)
    )


def merge(base: Config, override: Config) -> Config:
    """Return ``base`` with ``override`` laid over it: mappings key by key, everything else replaced."""
    result = copy.deepcopy(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
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
        # One conda environment serves the rule in all arms.
        model = override.get("model")
        if isinstance(model, dict) and "backend" in model:
            raise InputError(
                f"configuration: arm {name!r}: found the key 'model.backend', which an arm cannot change"
            )
        arms[name] = _ordered(merge(config, override))
        check(arms[name], schema, f"configuration: arm {name!r}")
    for name, settings in arms.items():
        _check_between_keys(settings, f"configuration: arm {name!r}" if name else "configuration")
    return arms


def _ordered(value: Any) -> Any:
    """Return a copy with the keys of all mappings sorted: Snakemake takes another order for a change."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _check_between_keys(config: Config, name: str) -> None:
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
    thresholds = config["features"]["thresholds"]
    if thresholds != sorted(thresholds):
        raise InputError(f"{name}: key 'features.thresholds': found {thresholds}, expected rising values")
    names = [dictionary["name"] for dictionary in config["dictionaries"]]
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
    for dictionary in config["dictionaries"]:
        dictionary_layers(config, dictionary, name)


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
    if folder is None:
        return []
    files = [Path(folder, file) for file in ("args.json", "vocab.json", "best_model.pt")]
    fetched = fetched_files(config)
    return [str(require_file(file, f"{name}: key 'model.checkpoint'", fetched)) for file in files]


def number_of_layers(config: Config, name: str = "configuration") -> int:
    """Return how many transformer layers the model has: from the checkpoint's args.json, or configured.

    The configured number also stands for a checkpoint that is yet to be fetched.
    """
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
    if dictionary["layers"] == "all":
        return extracted
    for layer in dictionary["layers"]:
        if layer not in extracted:
            raise InputError(
                f"{name}: dictionary {dictionary['name']!r}: found layer {layer}, "
                f"expected one of the extracted layers {extracted}"
            )
    return sorted(dictionary["layers"])


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


def _only_match(folder: Path, pattern: str, name: str) -> Path:
    matches = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
    if len(matches) != 1:
        raise InputError(f"{name}: found {len(matches)} files {pattern}[.gz] in {folder}, expected one")
    return matches[0]


def table(schema: dict[str, Any], defaults: Config) -> str:
    """Return the Markdown table of all keys: key, default, meaning (for the README)."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, description, default in _rows(schema, defaults, ""):
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|") if default is not ... else ""
        lines.append(f"| `{key}` | {f'`{shown}`' if shown else ''} | {description} |")
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], value: Any, prefix: str) -> Iterable[tuple[str, str, Any]]:
    for key, part in schema["properties"].items():
        path = f"{prefix}{key}"
        inner = value[key] if isinstance(value, dict) and key in value else ...
        if part.get("type") == "object" and "properties" in part:
            yield path, part.get("description", ""), ...
            yield from _rows(part, inner, f"{path}.")
        elif part.get("type") == "array" and "properties" in part.get("items", {}):
            yield path, part.get("description", ""), ...
            yield from _rows(part["items"], inner[0] if inner else ..., f"{path}[].")
        else:
            yield path, part.get("description", ""), inner

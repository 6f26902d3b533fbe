"""Spaces of units (``tis.units``), the features of crosstalk, their layers, and the arms that TIS compares.

Runs while Snakemake parses the workflow, hence standard library only.
"""

from __future__ import annotations

from typing import Any

from interptfm import config as config_module
from interptfm.errors import InputError

Config = dict[str, Any]

LATENTS = ("scvi", "totalvi", "multivi", "mofa")
"""Other systems whose latent space goes through the scorers of units."""


def hides_genes(main: Config, arm: Config) -> bool:
    """Tell whether an arm sees other genes than the main one."""
    return arm["cells"]["genes"] != main["cells"]["genes"]


def serves_judge(arms: dict[str, Config], name: str) -> bool:
    """Tell whether an arm is there for the held-out-gene judge only, and not compared by its concepts."""
    return name == arms[""]["tis"]["held_out_arm"] or hides_genes(arms[""], arms[name])


def check(arms: dict[str, Config]) -> None:
    """Check ``tis``, ``regions``, ``crosstalk`` and their arms (of :func:`interptfm.config.resolve`).

    Raises
    ------
    InputError
        For a space named twice, a layer, dictionary or space that is not there, an arm without gene tokens
        that is not the judge's.
    """
    main = arms[""]
    for name, arm in arms.items():
        if not arm["activations"]["gene_tokens"] and not (name and serves_judge(arms, name)):
            where = f"configuration: arm {name!r}" if name else "configuration"
            raise InputError(
                f"{where}: key 'activations.gene_tokens': found false, expected true, since dictionaries are "
                "trained on gene tokens"
            )
    names = [entry["name"] for entry in main["tis"]["units"]]
    for repeated in {n for n in names if names.count(n) > 1}:
        raise InputError(
            f"configuration: key 'tis.units': found the name {repeated!r} twice, expected it once"
        )
    for entry in main["tis"]["units"]:
        unit_layers(main, entry)
    regions_layer(main)
    crosstalk_dictionary(main)
    check_crosstalk(main)


def unit_settings(config: Config, name: str) -> Config:
    """Return the entry of ``tis.units`` with this name."""
    found = [entry for entry in config["tis"]["units"] if entry["name"] == name]
    if not found:
        names = ", ".join(entry["name"] for entry in config["tis"]["units"])
        raise InputError(f"configuration: key 'regions.units': found {name!r}, expected one of {names}")
    return found[0]


def unit_dictionary(config: Config, entry: Config) -> Config:
    """Return the dictionary of an entry of ``tis.units``: the one named, or the first."""
    dictionaries = {d["name"]: d for d in config["dictionaries"]}
    name = entry.get("dictionary") or next(iter(dictionaries))
    if name not in dictionaries:
        raise InputError(
            f"configuration: units {entry['name']!r}: found the dictionary {name!r}, "
            f"expected one of {', '.join(dictionaries)}"
        )
    return dictionaries[name]


def unit_layers(config: Config, entry: Config) -> list[int]:
    """Return the layers of an entry of ``tis.units``; a matrix of obsm counts as layer 0.

    Raises
    ------
    InputError
        For a layer that is not there, a dictionary that is not, or a matrix without path or key.
    """
    if entry["source"] == "obsm":
        for key in ("path", "key"):
            if not entry.get(key):
                raise InputError(
                    f"configuration: units {entry['name']!r}: found no {key!r}, expected it for source obsm"
                )
        return [0]
    if entry["source"] == "features":
        available = config_module.dictionary_layers(config, unit_dictionary(config, entry))
    else:
        available = config_module.layers(config)
    if entry["layers"] in ("all", "last"):
        return available if entry["layers"] == "all" else available[-1:]
    for layer in entry["layers"]:
        if layer not in available:
            raise InputError(
                f"configuration: units {entry['name']!r}: found layer {layer}, expected one of {available}"
            )
    return sorted(entry["layers"])


def latents(config: Config) -> list[str]:
    """Return the systems of ``comparators.names`` that give a latent space of cells."""
    return [name for name in config["comparators"]["names"] if name in LATENTS]


def latent_file(config: Config, name: str) -> str:
    """Return where such a system writes its latent, obsm ``X_<name>``."""
    return f"results/{config['run']}/comparators/{name}/latent.h5ad"


def regions_layer(config: Config) -> int:
    """Return the layer of the units that compartments are called from."""
    available = unit_layers(config, unit_settings(config, config["regions"]["units"]))
    layer = config["regions"]["layer"]
    if layer == "last":
        return available[-1]
    if layer not in available:
        raise InputError(
            f"configuration: key 'regions.layer': found {layer}, expected one of {available}, the layers of "
            f"units {config['regions']['units']!r}"
        )
    return layer


def check_crosstalk(config: Config) -> None:
    """Check what two keys of ``crosstalk`` have to do with each other.

    Raises
    ------
    InputError
        For a graph to be read without a path, or the published null without its shuffled labels.
    """
    crosstalk = config["crosstalk"]
    if crosstalk["graph"]["kind"] == "obsp" and not crosstalk["graph"]["path"]:
        raise InputError(
            "configuration: key 'crosstalk.graph.path': found null, expected an AnnData file for kind obsp"
        )
    if crosstalk["legacy"] and "labels" not in crosstalk["nulls"]["others"]:
        raise InputError(
            "configuration: key 'crosstalk.nulls.others': found no 'labels', expected it with legacy"
        )


def crosstalk_dictionary(config: Config) -> str:
    """Return the dictionary of ``crosstalk.features``: the one named, or the first.

    Raises
    ------
    InputError
        If it is not there or not of gene tokens, or does not have the layer; with the layer ``chosen``,
        which is one of the first dictionary's, any of those.
    """
    features = config["crosstalk"]["features"]
    of_genes = {d["name"]: d for d in config["dictionaries"] if d["tokens"] == "gene"}
    first = config["dictionaries"][0]
    name = features["dictionary"] or first["name"]
    if name not in of_genes:
        raise InputError(
            f"configuration: key 'crosstalk.features.dictionary': found {name!r}, expected one of gene "
            f"tokens: {', '.join(of_genes) or 'none'}"
        )
    available = config_module.dictionary_layers(config, of_genes[name])
    chosen = features["layer"] == "chosen"
    wanted = config_module.dictionary_layers(config, first) if chosen else [features["layer"]]
    for layer in wanted:
        if layer not in available:
            raise InputError(
                f"configuration: key 'crosstalk.features.layer': found {features['layer']!r}, expected one "
                f"of {available}, the layers of dictionary {name!r}"
            )
    return name

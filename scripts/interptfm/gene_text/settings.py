"""What the configuration's ``gene_text`` block means: providers, texts, the representations compared.

Runs while Snakemake parses the workflow, hence standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interptfm import config as config_module
from interptfm import spaces
from interptfm.errors import InputError

Config = dict[str, Any]

ONTOLOGY, NCBI = "ontology", "ncbi"
WEIGHTED, SENTENCE, PERMUTED = "weighted", "sentence", "permuted"
FORMS = (WEIGHTED, SENTENCE, PERMUTED)
PCA = "pca"
JUDGE = "gene_text:"
"""Prefix of ``tis.embedding`` that names a provider instead of a file."""


def check(config: Config) -> None:
    """Check what keys of ``gene_text`` have to do with each other.

    Raises
    ------
    InputError
        For names given twice or taken, a model on the hub without a pinned revision, a missing file, a judge
        by a provider that is not there.
    """
    block = config["gene_text"]
    providers = block["providers"]
    label = "configuration: key 'gene_text"
    names = [provider["name"] for provider in providers]
    for repeated in {name for name in names if names.count(name) > 1}:
        raise InputError(f"{label}.providers': found the name {repeated!r} twice, expected it once")
    judge = judge_provider(config)
    if judge is not None and judge not in names:
        raise InputError(
            f"configuration: key 'tis.embedding': found the provider {judge!r}, expected one of "
            f"{', '.join(names)}"
        )
    if not block["enabled"] and judge is None:
        return
    for provider in providers:
        _check_provider(config, provider)
    taken = {baseline(name) for name in names}
    for dictionary in [*config["dictionaries"], *config["extras"]["frontier"]]:
        if dictionary["name"] in taken:
            raise InputError(
                f"configuration: key 'dictionaries': found the name {dictionary['name']!r}, expected "
                "another, since the vectors of a provider of gene_text are called so"
            )
    known = [name for name, _ in representations(config)]
    for repeated in {name for name in known if known.count(name) > 1}:
        raise InputError(
            f"{label}.representations': found the name {repeated!r}, expected another, since one of the "
            "representations has it"
        )
    if block["texts"] not in (ONTOLOGY, NCBI):
        config_module.require_file(Path(config["data_root"], block["texts"]), f"{label}.texts'")


def _check_provider(config: Config, provider: Config) -> None:
    label = f"configuration: gene_text provider {provider['name']!r}"
    if provider["kind"] == "table":
        config_module.require_file(Path(config["data_root"], provider["path"]), f"{label}: key 'path'")
    if provider["kind"] == "transformer" and not Path(provider["model"]).is_dir():
        revision = provider["revision"] or ""
        if len(revision) != 40 or set(revision) - set("0123456789abcdef"):
            raise InputError(
                f"{label}: key 'revision': found {provider['revision']!r}, expected the 40 "
                f"hexadecimal digits of a commit of {provider['model']} (no such folder is here), so that "
                "the same model is read again"
            )


def judge_provider(config: Config) -> str | None:
    """Return the provider that ``tis.embedding`` names, None where it names a file or nothing."""
    embedding = config["tis"]["embedding"]
    return embedding.removeprefix(JUDGE) if embedding and embedding.startswith(JUDGE) else None


def provider(config: Config, name: str) -> Config:
    """Return the settings of the provider with this name."""
    return next(each for each in config["gene_text"]["providers"] if each["name"] == name)


def obsm_files(config: Config, path: str, samples: list[str]) -> list[str]:
    """Return the files of an entry of ``gene_text.representations``: one a sample, or one for all.

    ``path`` is relative to ``data_root``, or begins with ``results/``: then a rule of the workflow makes it.
    """
    place = path if path.startswith(config_module.RESULTS) else str(Path(config["data_root"], path))
    return list(dict.fromkeys(place.replace("{sample}", sample) for sample in samples))


def baseline(name: str) -> str:
    """Return what a provider's vectors are called among representations aligned with concepts."""
    return f"text-{name}"


def forms(provider: Config, block: Config) -> list[str]:
    """Return the forms of cells of a provider: a table of genes has no sentences, all have the control."""
    wanted = [form for form in block["cells"]["forms"] if form == WEIGHTED or provider["kind"] != "table"]
    return [*wanted, PERMUTED]


def representations(config: Config) -> list[tuple[str, Config]]:
    """Return (name, how it is read) of every representation that cell types are told by.

    ``source`` is ``text`` (with ``provider`` and ``form``), ``pca``, ``cls`` or ``features`` (with
    ``layer``), or ``obsm`` (with ``path`` and ``key``), as the latents of other systems are.
    """
    block = config["gene_text"]
    found: list[tuple[str, Config]] = []
    for each in block["providers"]:
        for form in forms(each, block):
            setting = {"source": "text", "provider": each["name"], "form": form}
            found.append((f"{each['name']}_{form}", setting))
    found.append((PCA, {"source": PCA}))
    found += [(f"cls_{layer}", {"source": "cls", "layer": layer}) for layer in config_module.layers(config)]
    first = config["dictionaries"][0]
    found += [
        (f"features_{layer}", {"source": "features", "layer": layer})
        for layer in config_module.dictionary_layers(config, first)
    ]
    found += [
        (each["name"], {"source": "obsm", "path": each["path"], "key": each["key"]})
        for each in block["representations"]
    ]
    found += [
        (name, {"source": "obsm", "path": spaces.latent_file(config, name), "key": f"X_{name}"})
        for name in spaces.latents(config)
    ]
    return found

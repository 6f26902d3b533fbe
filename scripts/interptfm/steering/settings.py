"""What `steering` of the configuration means for the workflow: its data, layers and checks.

Runs while Snakemake parses the workflow, hence standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interptfm import config as config_module
from interptfm.errors import InputError

Config = dict[str, Any]
SIMULATED, CELLS = "simulated", "cells"


def layer(main: Config) -> int | None:
    """Return the layer that is steered; None where ``first`` finds no extracted layer before the last.

    Nothing reads gene tokens after the last layer, and no model runs where activations come from files.
    InputError where a layer that is named is not extracted, or is the last, or there is no model.
    """
    extracted = config_module.layers(main)
    last = config_module.number_of_layers(main) - 1
    chosen = main["steering"]["layer"]
    if main["model"]["backend"] == config_module.FILES:
        if chosen != "first":
            raise InputError(
                f"configuration: key 'steering.layer': found {chosen}, expected first, since with "
                f"model.backend {config_module.FILES} no model is run and nothing can be steered"
            )
        return None
    if chosen == "first":
        return extracted[0] if extracted[0] != last else None
    found = int(chosen)
    if found not in extracted:
        raise InputError(
            f"configuration: key 'steering.layer': found {chosen}, expected one of the extracted layers "
            f"{extracted}"
        )
    if found == last:
        raise InputError(
            f"configuration: key 'steering.layer': found {found}, the model's last, expected an earlier one: "
            "nothing reads gene tokens after it"
        )
    return found


def dictionary(main: Config) -> str | None:
    """Return the dictionary whose features are clamped: that named, or the first; None where it lacks the
    layer."""
    known = {entry["name"]: entry for entry in main["dictionaries"] if entry["tokens"] == "gene"}
    name = main["steering"]["dictionary"] or next(iter(known))
    if name not in known:
        raise InputError(
            f"configuration: key 'steering.dictionary': found {name!r}, expected a dictionary of gene tokens "
            f"({', '.join(known)})"
        )
    return name if layer(main) in config_module.dictionary_layers(main, known[name]) else None


def untrained_arm(main: Config, arms: dict[str, Config]) -> str | None:
    """Return the arm that steering is repeated in, None without one or where it lacks probes of the layer."""
    name = main["steering"]["untrained_arm"]
    if name is None or name not in arms or name not in main["probes"]["arms"]:
        return None
    return name if layer(main) in config_module.layers(arms[name]) else None


def data(main: Config) -> str | None:
    """Return what judges steering: a path, :data:`CELLS`, :data:`SIMULATED` or None.

    A screen is simulated where the tissue is: a run of own data that names no screen has none. Where no
    layer can be steered, none is asked for.
    """
    found = main["steering"]["data"]
    if layer(main) is None or (found == SIMULATED and not main["simulate"]["enabled"]):
        return None
    return found


def data_file(main: Config) -> str | None:
    """Return the file of perturbation data that the configuration names; None where the run's own cells, a
    simulation or nothing serves. InputError where it is not there.
    """
    found = data(main)
    if found in (None, SIMULATED, CELLS):
        return None
    fetched = config_module.fetched_files(main)
    path = Path(main["data_root"], found)
    return str(config_module.require_file(path, "configuration: key 'steering.data'", fetched))


def check(arms: dict[str, Config]) -> None:
    """Check `steering`; raises :class:`InputError` for a key that does not fit the others."""
    main = arms[""]
    layer(main)
    dictionary(main)
    data_file(main)
    steering = main["steering"]
    if steering["direction"] not in main["probes"]["kinds"]:
        raise InputError(
            f"configuration: key 'steering.direction': found {steering['direction']!r}, expected one of "
            f"probes.kinds ({', '.join(main['probes']['kinds'])})"
        )
    if 0 in steering["doses"]:
        raise InputError(
            "configuration: key 'steering.doses': found 0, expected doses other than 0, which changes nothing"
        )

"""Configuration, paths of the arms, and the helpers that every rule uses."""

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

PROJECT = Path(workflow.basedir).parent
LIBRARY = PROJECT / "scripts" / "interptfm"
sys.path.insert(0, str(PROJECT / "scripts"))

from interptfm import config as settings
from interptfm import dependencies
from interptfm import fetch as downloads
from interptfm import job, passes, spaces
from interptfm.annotate import settings as annotate_settings
from interptfm.errors import InputError
from interptfm.gene_text import settings as text_settings
from interptfm.steering import settings as steering_settings

NEURONS = "neurons"
ALIGNMENT_TABLES = ("concepts", "features", "null", "interpretable", "summary")
BASELINES = settings.BASELINES
MODEL_FILES = ("args.json", "vocab.json", "best_model.pt")


def load():
    """Validate configuration and sample sheet; a mistake ends the run with one sentence."""
    schemas = Path(workflow.basedir) / "schemas"
    arms = settings.resolve(config, settings.load_yaml(schemas / "config.schema.yaml"))
    for name, arm in arms.items():
        settings.layers(arm, f"configuration: arm {name!r}" if name else "configuration")
    spaces.check(arms)
    steering_settings.check(arms)
    text_settings.check(arms[""])
    samples = settings.read_samples(config["samples"], settings.load_yaml(schemas / "samples.schema.yaml"))
    for name, arm in arms.items():
        if arm["model"]["backend"] == settings.FILES:
            for sample in samples:
                settings.embedding_files(
                    arm, sample, f"configuration: arm {name!r}" if name else "configuration"
                )
    if not config["simulate"]["enabled"]:
        for sample in samples.values():
            settings.sample_files(sample, config["data_root"], False, settings.fetched_files(config))
    return arms, samples


try:
    ARMS, SAMPLES = load()
except InputError as error:
    sys.exit(f"interpTFM: {error}")

RUN = f"results/{config['run']}"
MANIFEST = downloads.read_manifest(config["fetch"]["manifest"]) if config["fetch"]["enabled"] else {}
FETCHED = settings.fetched_files(config)
OWN = {name: settings.repeated_stages(ARMS[""], arm) for name, arm in ARMS.items()}
CONTROL_ARMS = [
    name
    for name, override in config["arms"].items()
    if override is not None and not spaces.serves_judge(ARMS, name)
]
EXTRA_ARMS = [name for name, override in config["extras"]["arms"].items() if override is not None]
# Arms whose activations are another model's, read from files; all others run a model.
FROM_FILES = [name for name, arm in ARMS.items() if arm["model"]["backend"] == settings.FILES]
RUN_BY_MODEL = [name for name in ARMS if name not in FROM_FILES]
MODEL_IS_RUN = "" in RUN_BY_MODEL
DICTIONARY_NAMES = sorted(
    {d["name"] for arm in ARMS.values() for d in arm["dictionaries"] + arm["extras"]["frontier"]}
)
HEADLINE = config["dictionaries"][0]["name"]
# What a store's name ends in, by forward pass: nothing for the first, which has all layers of a new run.
PARTS = ["", *(f".added_{number}" for number in range(1, 100))]
SIMULATED_RUN = config["simulate"]["enabled"]
LATENTS = spaces.latents(ARMS[""])
TEXT_REPRESENTATIONS = dict(text_settings.representations(ARMS[""]))
TEXT_PROVIDERS = [provider["name"] for provider in ARMS[""]["gene_text"]["providers"]]
# Systems of two modalities -> their key below `comparators` that names the file of the second one.
MODALITY_KEYS = {"totalvi": "proteins", "multivi": "atac"}
TEXT_BASELINES = [text_settings.baseline(name) for name in TEXT_PROVIDERS]


def choice(names):
    return "|".join(re.escape(str(name)) for name in names)


def prefixes(names):
    """Return a pattern of the folder prefixes of arms; one that matches nothing without arms."""
    return f"({choice(f'arms/{name}/' if name else '' for name in names)})" if names else "(?!)"


# {arm} is the folder prefix of an arm, empty for the main one: one set of rules serves all arms.
wildcard_constraints:
    arm=prefixes(ARMS),
    sample=choice(SAMPLES),
    shard=r"\d+",
    other=choice([name for name in ARMS if name]) if len(ARMS) > 1 else "()",
    part=r"|\.added_\d+",
    layer=r"\d+",
    dictionary=choice([NEURONS, *BASELINES, *TEXT_BASELINES, *DICTIONARY_NAMES]),
    number=r"\d+",
    units=choice(entry["name"] for entry in config["tis"]["units"]),
    provider=choice(TEXT_PROVIDERS),
    form=choice(text_settings.FORMS),
    representation=choice(TEXT_REPRESENTATIONS),
    latent=choice(spaces.LATENTS),


def arm_name(wildcards):
    return wildcards.arm.removeprefix("arms/").removesuffix("/")


def arm_folder(name, stage):
    """Return the folder of a stage's outputs as seen from an arm: its own, or the main arm's."""
    return f"{RUN}/arms/{name}" if name and stage in OWN[name] else RUN


def at(stage, pattern):
    """Input function: the file ``pattern`` of ``stage``, in the folder that the rule's arm reads."""

    def path(wildcards):
        return f"{arm_folder(arm_name(wildcards), stage)}/{pattern}".format(**wildcards)

    return path


def at_samples(stage, pattern):
    """Input function: as :func:`at`, once for every sample."""

    def paths(wildcards):
        folder = arm_folder(arm_name(wildcards), stage)
        return [f"{folder}/{pattern}".format(**{**wildcards, "sample": sample}) for sample in SAMPLES]

    return paths


def setting(path, leave_out=()):
    """Params function: the value at a key path in the configuration of the rule's arm, but for some keys."""

    def value(wildcards):
        found = settings.pick(ARMS[arm_name(wildcards)], path)
        return {key: found[key] for key in found if key not in leave_out} if leave_out else found

    return value


def lib(*modules):
    """Return the library files to depend on, the modules named and all that they import."""
    return [os.path.relpath(path) for path in dependencies.closure(modules, LIBRARY)]


def memory(base_mb, per_input_mb=0.0):
    """Resource function: MB of memory from the size of the input, half as much again per retry."""
    return lambda wildcards, input, attempt: int(
        (base_mb + per_input_mb * input.size_mb) * 1.5 ** (attempt - 1)
    )


def memory_of_cells(base_mb, per_input_mb):
    """Resource function: as :func:`memory`, of the cells alone; activations pass through in blocks."""
    return lambda wildcards, input, attempt: int(
        (base_mb + per_input_mb * megabytes(input.cells)) * 1.5 ** (attempt - 1)
    )


def training_memory(wildcards, input, attempt):
    """Resource function: the buffer of tokens, the cells' splits, and the batches in flight."""
    settings_of = dictionary_settings(arm_name(wildcards), wildcards.dictionary)
    buffer = settings_of.get("buffer_bytes", 0) / 1e6
    return int((2500 + buffer + 12 * megabytes(input.cells)) * 1.5 ** (attempt - 1))


def training_minutes(wildcards, input, attempt):
    """Resource function: half an hour, 1,000 training tokens a second, and all held-out tokens once."""
    settings_of = dictionary_settings(arm_name(wildcards), wildcards.dictionary)
    held_out = 0.5 * megabytes(input.activations) / 1000
    tokens = settings_of.get("training_tokens", 0)
    return int((30 + tokens / 60_000 + held_out) * 2 ** (attempt - 1))


def megabytes(paths):
    return sum(map(os.path.getsize, paths)) / 1e6


def minutes(base, per_input_gb=0.0):
    """Resource function: run time in minutes from the size of the input, doubled per retry."""
    return lambda wildcards, input, attempt: int(
        (base + per_input_gb * input.size_mb / 1000) * 2 ** (attempt - 1)
    )


def passes_of(name):
    """Return the layers of each forward pass of an arm: what was extracted together, then what is new."""
    arm = ARMS[name]
    folder = Path(arm_folder(name, "activations"))

    def used(number, layers):
        """Find a store of the pass or, where stores were deleted to save space, what was made of them."""
        stores = (
            folder / "activations" / sample / f"{shard}{PARTS[number]}.zarr.zip"
            for sample, row in SAMPLES.items()
            for shard in range(row["shards"])
        )
        made = (path for layer in layers for path in folder.glob(f"features/*/layer_{layer}/firing.zarr.zip"))
        return any(path.exists() for path in stores) or any(made)

    recorded = passes.begun(passes.read(folder / "activations"), used)
    return passes.plan(recorded, settings.layers(arm), settings.number_of_layers(arm))


def activation_files(name, layers):
    """Return the stores, of all samples and shards, that hold these layers of an arm."""
    folder = arm_folder(name, "activations")
    parts = dict.fromkeys(PARTS[passes.holding(PASSES[name], layer)] for layer in layers)
    return [
        f"{folder}/activations/{sample}/{shard}{part}.zarr.zip"
        for part in parts
        for sample, row in SAMPLES.items()
        for shard in range(row["shards"])
    ]


PASSES = {name: passes_of(name) for name in ARMS}


def dictionary_settings(name, dictionary):
    known = ARMS[name]["dictionaries"] + ARMS[name]["extras"]["frontier"]
    return next(d for d in known if d["name"] == dictionary)


def gene_dictionaries(name):
    """Return the names of an arm's dictionaries of gene tokens: features and alignment are about genes."""
    return [d["name"] for d in ARMS[name]["dictionaries"] if d["tokens"] == "gene"]


def encoded_dictionaries():
    """Return the names of all dictionaries of gene tokens, those of the sweep among them."""
    swept = {d["name"] for d in ARMS[""]["extras"]["frontier"] if d["tokens"] == "gene"}
    return sorted(swept.union(*(gene_dictionaries(name) for name in ARMS)))


def representation_layers(name, dictionary):
    """Return the layers of a dictionary, or of the neurons: all that a gene dictionary of the arm uses."""
    arm = ARMS[name]
    if dictionary != NEURONS:
        return settings.dictionary_layers(arm, dictionary_settings(name, dictionary))
    return sorted({l for d in gene_dictionaries(name) for l in representation_layers(name, d)})


def layered(pattern, name="", dictionaries=None):
    """Return ``pattern`` for every dictionary of an arm and each of its layers.

    Of stages after ``dictionaries`` only dictionaries of gene tokens.
    """
    stage = pattern.split("/")[0]
    if dictionaries is None:
        trained = [d["name"] for d in ARMS[name]["dictionaries"]]
        dictionaries = trained if stage == "dictionaries" else gene_dictionaries(name)
    return [
        f"{arm_folder(name, stage)}/{pattern}".format(dictionary=dictionary, layer=layer)
        for dictionary in dictionaries
        for layer in representation_layers(name, dictionary)
    ]


def shown(files, category, **captions):
    """Return outputs by role, those with a caption marked for ``snakemake --report``."""
    marked = dict(files)
    for role, caption in captions.items():
        labels = {"table": Path(files[role]).stem.replace("_", " ")}
        marked[role] = report(
            files[role], caption=f"../report/{caption}.rst", category=category, labels=labels
        )
    return marked


def simulation_memory(wildcards, input, attempt):
    """Resource function: a handful of dense tables of cells × genes are alive at once."""
    cells = setting("simulate.cells")(wildcards)
    genes = len(Path(input.panel).read_text().splitlines())
    return int(max(1500, 300 + 50e-6 * cells * genes) * 1.5 ** (attempt - 1))


def simulated_files(role):
    return [settings.sample_files(row, SIMULATED, simulated=True)[role] for row in SAMPLES.values()]


def section_files(wildcards):
    """Return the files of a section by role, simulated or real, and the vocabulary of a given model."""
    root = config["data_root"]
    if config["simulate"]["enabled"]:
        root = f"{arm_folder(arm_name(wildcards), 'simulated')}/simulated"
    simulated = config["simulate"]["enabled"]
    files = settings.sample_files(SAMPLES[wildcards.sample], root, simulated, FETCHED)
    given = settings.checkpoint_files(ARMS[arm_name(wildcards)])
    return {**files, "vocabulary": given[1]} if given else files


def section(key):
    return lambda wildcards: SAMPLES[wildcards.sample][key]


def cell_types_column(wildcards):
    source = SAMPLES[wildcards.sample]["cell_types"] or ""
    return source.removeprefix("column:") if source.startswith("column:") else None


def of_kind(kind):
    """Return the manifest's rows of one kind that lack a file; none where ``fetch`` is off.

    No rule makes what is there already; neither an edit of a script, another name of the run nor
    ``--forceall`` may delete data to download it again, least of all data that a person placed.
    """
    root = config["data_root"]
    return [
        item
        for item in MANIFEST.values()
        if item.kind == kind and not all(map(os.path.isfile, item.files(root)))
    ]


def fetched_item(wildcards):
    """Return the manifest's row whose ``path`` (and name, of a section) the wildcards are."""
    name = wildcards.get("section")
    return next(
        asdict(item)
        for item in MANIFEST.values()
        if item.path == wildcards.place and name in (None, item.name)
    )


def activations_of_layer(wildcards):
    return activation_files(arm_name(wildcards), [int(wildcards.layer)])


def pass_layers(wildcards):
    """Params function: the layers of the forward pass that writes a store."""
    return PASSES[arm_name(wildcards)][PARTS.index(wildcards.part)]


def given_checkpoint(wildcards):
    return settings.checkpoint_files(ARMS[arm_name(wildcards)])


def model_file(name):
    """Input function: one of the model's files as extraction reads it.

    A checkpoint is read where it lies: its copy under ``model/`` comes with metrics that pool over the
    samples, and a further sample must not touch the activations of the others.
    """

    def path(wildcards):
        given = given_checkpoint(wildcards) if ARMS[arm_name(wildcards)]["model"]["init"] == "trained" else []
        if given and setting("cells.genes")(wildcards) == "all":
            return given[MODEL_FILES.index(name)]
        return at("model", f"model/{name}")(wildcards)

    return path


def embeddings_of_sample(wildcards):
    """Input function: the files of a sample's embeddings, of tokens and, where there is one, of cells."""
    files = settings.embedding_files(ARMS[arm_name(wildcards)], wildcards.sample)
    return {"tokens": files["tokens"], **({"cell_states": files["cells"]} if "cells" in files else {})}


def given_embeddings(names):
    """Return the files of embeddings that a user placed, of some arms; no rule makes them."""
    return [
        path
        for name in names
        if name in FROM_FILES and not ARMS[name]["model"]["embeddings"].startswith(settings.RESULTS)
        for sample in SAMPLES
        for path in settings.embedding_files(ARMS[name], sample).values()
    ]


def dictionaries_of_model():
    """Return the quality of the main arm's dictionaries inside the model; none where no model is run."""
    return layered("dictionaries/{dictionary}/layer_{layer}/quality.json") if MODEL_IS_RUN else []


def compared_models(names):
    """Return one entry per arm and layer: where the alignment of its first dictionary is, of main and these arms."""
    return [
        {
            "arm": name or "main",
            "backend": ARMS[name]["model"]["backend"],
            "layer": layer,
            **{
                role: f"{arm_folder(name, 'alignment')}/alignment/{HEADLINE}/layer_{layer}/{file}"
                for role, file in (("concepts", "concepts.parquet"), ("summary", "summary.json"))
            },
            "cfg": f"{arm_folder(name, 'dictionaries')}/dictionaries/{HEADLINE}/layer_{layer}/cfg.json",
        }
        for name in ("", *names)
        for layer in representation_layers(name, HEADLINE)
    ]


def models_input(entries):
    """Return the inputs of the table of models, by role."""
    files = {"concepts": "concepts", "summaries": "summary", "cfgs": "cfg"}
    return {role: [entry[key] for entry in entries] for role, key in files.items()}


def models_params(entries):
    """Return what the table of models says of its rows."""
    return [{key: entry[key] for key in ("arm", "backend", "layer")} for entry in entries]


def samples_of_split(wildcards):
    """Params function: the samples that decide on a section's split; its own where blocks lie within it."""
    whole = setting("cells.blocks.unit")(wildcards) == "section"
    return list(SAMPLES) if whole else [wildcards.sample]


def imported(wildcards):
    name = arm_name(wildcards)
    dictionary = dictionary_settings(name, wildcards.dictionary)
    return settings.imported_files(dictionary, int(wildcards.layer))


def trained_settings(wildcards):
    """Params function: a dictionary's settings without those that say where and how often."""
    dictionary = dictionary_settings(arm_name(wildcards), wildcards.dictionary)
    return {key: value for key, value in dictionary.items() if key not in ("layers", "seeds")}


def dictionary_tokens(wildcards):
    """Params function: the kind of tokens that a dictionary is of."""
    return dictionary_settings(arm_name(wildcards), wildcards.dictionary)["tokens"]


def further_seeds(name, dictionary):
    """Return the numbers of a dictionary's seeds after the first; none unless 3 or more are trained."""
    trained = dictionary_settings(name, dictionary)
    if trained["seeds"] < 3 or trained["architecture"] == "imported":
        return []
    return list(range(2, trained["seeds"] + 1))


def seed_weights(wildcards):
    """Input function: the weights of a dictionary's further seeds, beside its own."""
    numbers = further_seeds(arm_name(wildcards), wildcards.dictionary)
    folder = f"{RUN}/{wildcards.arm}dictionaries/{wildcards.dictionary}/layer_{wildcards.layer}"
    return [f"{folder}/seed_{number}/sae_weights.safetensors" for number in numbers]


def stability_of(wildcards):
    """Input function: the table that says which features are stable, where further seeds are trained."""
    name = arm_name(wildcards)
    untrained = (NEURONS, *BASELINES, *TEXT_BASELINES)
    if wildcards.dictionary in untrained or not further_seeds(name, wildcards.dictionary):
        return []
    return at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/stability.parquet")(wildcards)


def stability_files(names):
    """Return the summaries of stability of those of the arms that train dictionaries with further seeds."""
    return [
        f"{arm_folder(name, 'dictionaries')}/dictionaries/{d['name']}/layer_{layer}/stability.json"
        for name in names
        if not name or "dictionaries" in OWN[name]
        for d in ARMS[name]["dictionaries"]
        if further_seeds(name, d["name"])
        for layer in settings.dictionary_layers(ARMS[name], d)
    ]


def frontier_points():
    """Return dictionary, architecture, size and layer of each gene dictionary of the main arm and of the sweep."""
    main = ARMS[""]
    return [
        {
            "dictionary": d["name"],
            "architecture": d["architecture"],
            "n_features": d.get("n_features"),
            "layer": layer,
        }
        for d in main["dictionaries"] + main["extras"]["frontier"]
        if d["tokens"] == "gene"
        for layer in settings.dictionary_layers(main, d)
    ]


def ontology_files(wildcards):
    ontology = ARMS[arm_name(wildcards)]["ontology"]
    roles = settings.ONTOLOGY_FILES[ontology["source"]]
    return {role: str(Path(config["data_root"], ontology[role])) for role in roles}


def concept_settings(wildcards):
    """Params function: the settings of the concepts, without those of a service that is not asked."""
    found = setting("ontology", leave_out=["slim"])(wildcards)
    return {key: found[key] for key in found if key != "gprofiler" or found["source"] == "gprofiler"}


def headline(table, name="", dictionary=HEADLINE):
    """Return one alignment table of the headline dictionary (or of the neurons) for every layer of an arm."""
    return layered(f"alignment/{{dictionary}}/layer_{{layer}}/{table}", name, [dictionary])


def strength_points():
    """Return (strength, layer, arm) of every point of the recovery curve, the main arm included."""
    arms = {"": config["simulate"]["strength"], **STRENGTH_ARMS}
    return [
        (strength, layer, name)
        for name, strength in sorted(arms.items(), key=lambda item: item[1])
        for layer in representation_layers(name, HEADLINE)
    ]


def report_index():
    """Return one entry per (arm, representation, layer) with the paths of its tables."""
    entries = []
    shown = [("", d["name"]) for d in config["dictionaries"]] + [("", NEURONS)]
    shown += [(name, HEADLINE) for name in CONTROL_ARMS]
    aligned = {*gene_dictionaries(""), NEURONS}
    for name, representation in shown:
        for layer in representation_layers(name, representation):
            place = f"{representation}/layer_{layer}"
            entry = {
                "arm": name or "main",
                "representation": representation,
                "layer": layer,
            }
            for table in ALIGNMENT_TABLES if representation in aligned else ():
                suffix = "json" if table == "summary" else "parquet"
                entry[table] = f"{arm_folder(name, 'alignment')}/alignment/{place}/{table}.{suffix}"
            if representation != NEURONS:
                folder = f"{arm_folder(name, 'dictionaries')}/dictionaries/{place}"
                entry["training"] = f"{folder}/training.parquet"
                entry["metrics"] = f"{folder}/metrics.json"
                if not name and MODEL_IS_RUN:
                    entry["quality"] = f"{folder}/quality.json"
                if not name and representation in aligned:
                    entry["top_tokens"] = f"{RUN}/features/{place}/top_tokens.parquet"
            entries.append(entry)
    return entries


def source_of_codes(wildcards):
    """Return what encodes the tokens of a representation: a dictionary, a fitted baseline, or nothing."""
    name, place = wildcards.dictionary, "{dictionary}/layer_{layer}"
    if name == NEURONS:
        return {}
    if name in (*BASELINES, *TEXT_BASELINES):
        fitted = f"features/{place}/representation.zarr.zip"
        return {"representation": at("features", fitted)(wildcards)}
    weights = f"dictionaries/{place}/sae_weights.safetensors"
    return {
        "cfg": at("dictionaries", f"dictionaries/{place}/cfg.json")(wildcards),
        "weights": at("dictionaries", weights)(wildcards),
    }


def chosen_layer():
    """Return the layer that validation chose; the checkpoint runs first."""
    import json

    return json.loads(Path(checkpoints.choose_layer.get().output.choice).read_text())["layer"]


def baseline_inputs(wildcards):
    if wildcards.baseline in ACTIVATION_BASELINES:
        firing = f"{RUN}/features/{HEADLINE}/layer_{wildcards.layer}/firing.zarr.zip"
        return {"activations": activation_files("", [int(wildcards.layer)]), "firing": firing}
    if wildcards.baseline == "static":
        names = {"args": "args.json", "vocab": "vocab.json", "weights": "best_model.pt"}
        return {role: f"{RUN}/model/{name}" for role, name in names.items()}
    return {}


def aligned_baselines(table):
    """Input function: one alignment table of every baseline at the chosen layer."""
    return lambda wildcards: [
        f"{RUN}/alignment/{name}/layer_{chosen_layer()}/{table}" for name in USED_BASELINES
    ]


def arm_summaries():
    return [
        path
        for name in CONTROL_ARMS
        for path in layered("alignment/{dictionary}/layer_{layer}/summary.json", name, [HEADLINE])
    ]


def reading_files(wildcards):
    """Input function: the reading's tables and summary (READING_FILES) at the chosen layer."""
    return list(expand(READING_FILES.values(), layer=chosen_layer()))


def slim_file(wildcards):
    slim = config["ontology"]["slim"]
    return {"slim": str(Path(config["data_root"], slim))} if slim else {}


def serves(name, layer, hidden):
    """Return an arm that TIS compares with, if there is one of this kind that has the layer, else nothing."""
    if not config["arms"].get(name) or spaces.hides_genes(ARMS[""], ARMS[name]) != hidden:
        return ""
    return name if layer in settings.layers(ARMS[name]) else ""


def scored_units():
    """Return (units, layer) of every table of the TIS."""
    entries = config["tis"]["units"]
    return [(entry["name"], layer) for entry in entries for layer in spaces.unit_layers(ARMS[""], entry)]


def unit_files(name, layer):
    """Return the files that hold the activations of an entry of ``tis.units``."""
    entry = spaces.unit_settings(config, name)
    if entry["source"] == "cls":
        return activation_files("", [layer])
    if entry["source"] == "obsm":
        path = str(Path(config["data_root"], entry["path"]))
        return list(dict.fromkeys(path.replace("{sample}", sample) for sample in SAMPLES))
    dictionary = spaces.unit_dictionary(ARMS[""], entry)
    file = "cls.zarr.zip" if dictionary["tokens"] == "cls" else "cells.zarr.zip"
    return [f"{RUN}/features/{dictionary['name']}/layer_{layer}/{file}"]


def tis_inputs(wildcards):
    """Input function: the units, those of the untrained arm, the held-out arm's states, the gene table."""
    layer, found = int(wildcards.layer), {}
    untrained = serves(config["tis"]["untrained_arm"], layer, False)
    held_out = serves(config["tis"]["held_out_arm"], layer, True)
    source = spaces.unit_settings(config, wildcards.units)["source"]
    if untrained and source == "cls":
        found["untrained"] = activation_files(untrained, [layer])
    if held_out and source != "obsm":
        found["held_out"] = activation_files(held_out, [layer])
        found["held_out_args"] = f"{arm_folder(held_out, 'model')}/model/args.json"
    if config["tis"]["embedding"]:
        found["embedding"] = judge_table()
    return {**found, "units": unit_files(wildcards.units, layer)}


def judge_table():
    """Return the gene vectors of the judge by embedding: a provider's of gene_text, or a given file."""
    provider = text_settings.judge_provider(config)
    if provider is not None:
        return f"{RUN}/gene_text/{provider}/genes.parquet"
    return str(Path(config["data_root"], config["tis"]["embedding"]))


def tis_settings(wildcards):
    """Params function: how units are scored, and those of this space only."""
    tis = {key: value for key, value in ARMS[""]["tis"].items() if key != "units"}
    return {**tis, "space": spaces.unit_settings(ARMS[""], wildcards.units)}


def same_weights(wildcards):
    """Params function: whether the held-out arm is the model under test, shown half of the genes."""
    arm = ARMS.get(config["tis"]["held_out_arm"], {})
    given = config["model"]["checkpoint"] is not None and config["model"]["init"] == "trained"
    return given and arm.get("model") == ARMS[""]["model"]


def crosstalk_layer():
    """Return the layer of the features that crosstalk is about: its number, or what validation chose."""
    layer = config["crosstalk"]["features"]["layer"]
    return chosen_layer() if layer == "chosen" else layer


def activity_inputs(wildcards):
    """Input function: the features of cells, and what they are aligned with."""
    place = f"{spaces.crosstalk_dictionary(ARMS[''])}/layer_{crosstalk_layer()}"
    tables = {"interpretable": "parquet", "pairs": "parquet", "summary": "json"}
    alignment = {name: f"{RUN}/alignment/{place}/{name}.{suffix}" for name, suffix in tables.items()}
    return {"features": f"{RUN}/features/{place}/cells.zarr.zip", **alignment}


def crosstalk_settings(wildcards):
    """Params function: the settings of crosstalk, but for files and for whose features activity is."""
    crosstalk = ARMS[""]["crosstalk"]
    return {key: crosstalk[key] for key in crosstalk if key not in ("features", "contrasts")}


def squidpy_graph(sample):
    """Return the file of a graph made elsewhere, of one sample."""
    return str(Path(config["data_root"], config["crosstalk"]["graph"]["path"].replace("{sample}", sample)))


def crosstalk_graph(wildcards):
    """Input function: the file of the sample's graph where squidpy made it."""
    given = config["crosstalk"]["graph"]["kind"] == "obsp"
    return {"graph": squidpy_graph(wildcards.sample)} if given else {}


def crosstalk_graphs(wildcards):
    """Input function: as :func:`crosstalk_graph`, of all samples."""
    given = config["crosstalk"]["graph"]["kind"] == "obsp"
    return {"graph": [squidpy_graph(sample) for sample in SAMPLES]} if given else {}


def evidence_arm(layer):
    """Return the arm that the chain of evidence is compared with; empty without one that has the layer.

    Same cells, same terms, another model: what differs in them would differ in the chain, too.
    """
    name = config["evidence"]["untrained_arm"]
    if not config["arms"].get(name) or not {"cells", "concepts"}.isdisjoint(OWN[name]):
        return ""
    trained = "dictionaries" in OWN[name] and HEADLINE in gene_dictionaries(name)
    return name if trained and layer in representation_layers(name, HEADLINE) else ""


def evidence_inputs(wildcards):
    """Input function: alignment and features at the chosen layer, of the main arm and of the untrained."""
    layer = chosen_layer()
    place = f"{HEADLINE}/layer_{layer}"
    found = {"firing": f"{RUN}/features/{place}/firing.zarr.zip"}
    arm = evidence_arm(layer)
    for prefix, name in [("", ""), *([("untrained_", arm)] if arm else [])]:
        folder = {stage: arm_folder(name, stage) for stage in ("alignment", "features", "dictionaries")}
        found[f"{prefix}features"] = f"{folder['features']}/features/{place}/cells.zarr.zip"
        for table in ("concepts.parquet", "interpretable.parquet", "summary.json"):
            found[prefix + table.split(".")[0]] = f"{folder['alignment']}/alignment/{place}/{table}"
        if further_seeds(name, HEADLINE):
            stable = f"{folder['dictionaries']}/dictionaries/{place}/stability.parquet"
            found[f"{prefix}stability"] = stable
    return found


def probed_layers():
    """Return (arm, layer) of all probes: every layer of the main arm and of the arms that ``probes`` names."""
    names = ["", *(name for name in config["probes"]["arms"] if config["arms"].get(name))]
    return [
        (name, layer)
        for name in names
        if ARMS[name]["activations"]["gene_tokens"]
        for layer in settings.layers(ARMS[name])
    ]


def sparse_files(wildcards):
    """Input function: the tables of sparse probes at the chosen layer."""
    return [f"{RUN}/probes/layer_{chosen_layer()}/{file}" for file in SPARSE_NAMES.values()]


def probe_index():
    """Return one entry per probed (arm, layer) with the path of its summary and of its metrics."""
    return [
        {
            "arm": name or "main",
            "layer": layer,
            **{
                role: f"{RUN}/{f'arms/{name}/' if name else ''}probes/layer_{layer}/{PROBE_NAMES[role]}"
                for role in ("summary", "metrics")
            },
        }
        for name, layer in PROBED
    ]


def screen_files():
    """Return the files of perturbation data; none where there is no such data."""
    data = steering_settings.data(ARMS[""])
    if data == steering_settings.CELLS:
        return expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES)
    if data == steering_settings.SIMULATED:
        return [f"{RUN}/simulated/screen.h5ad"]
    return [steering_settings.data_file(ARMS[""])] if data else []


def probe_files(role, name="", layers=None):
    """Return a file of the probes of an arm, of some layers or of all."""
    folder = f"{RUN}/arms/{name}" if name else RUN
    wanted = [layer for arm, layer in PROBED if arm == name and layer in (layers or [layer])]
    return [f"{folder}/probes/layer_{layer}/{PROBE_NAMES[role]}" for layer in wanted]


def steering_ontology():
    """Return the ontology's files by role: targets outside the panel are annotated there, too."""
    ontology = ARMS[""]["ontology"]
    roles = settings.ONTOLOGY_FILES[ontology["source"]]
    return {role: str(Path(config["data_root"], ontology[role])) for role in roles}


def annotation_settings():
    """Return how genes outside the panel are annotated; nothing for a service, which jobs do not ask."""
    ontology = ARMS[""]["ontology"]
    if ontology["source"] == "gprofiler":
        return None
    return {key: value for key, value in ontology.items() if key not in ("gprofiler", "slim")}


def steering_inputs(wildcards):
    """Input function: the model and its probes, the untrained arm's, the dictionary."""
    main, layer = ARMS[""], STEERED_LAYER
    found = {
        "args": f"{RUN}/model/args.json",
        "vocab": f"{RUN}/model/vocab.json",
        "weights": f"{RUN}/model/best_model.pt",
        "probes": probe_files("document"),
        "probe_weights": probe_files("weights"),
    }
    arm = steering_settings.untrained_arm(main, ARMS)
    if arm:
        folder = f"{arm_folder(arm, 'model')}/model"
        found["untrained"] = [f"{folder}/{file}" for file in MODEL_FILES]
        found["untrained_probes"] = probe_files("document", arm, [layer])
        found["untrained_weights"] = probe_files("weights", arm, [layer])
    name = steering_settings.dictionary(main)
    if name:
        place = f"{name}/layer_{layer}"
        found["dictionary_cfg"] = f"{RUN}/dictionaries/{place}/cfg.json"
        found["dictionary_weights"] = f"{RUN}/dictionaries/{place}/sae_weights.safetensors"
        found["features"] = f"{RUN}/alignment/{place}/concepts.parquet"
    return found


def atlas_spaces():
    """Return one entry per dictionary of gene tokens and layer of the main arm, with the paths of its tables."""
    entries, main = [], ARMS[""]
    units = [entry for entry in main["tis"]["units"] if entry["source"] == "features"]
    steered = steering_settings.dictionary(main) if STEERING_FILES else None
    for name in gene_dictionaries(""):
        for layer in representation_layers("", name):
            place = f"{name}/layer_{layer}"
            scored = [
                f"{RUN}/tis/{entry['name']}/layer_{layer}/units.parquet"
                for entry in units
                if spaces.unit_dictionary(main, entry)["name"] == name
                and layer in spaces.unit_layers(main, entry)
            ]
            alignment = ("interpretable", "pairs")
            entries.append(
                {
                    "dictionary": name,
                    "layer": layer,
                    "clamped": steered == name and layer == STEERED_LAYER,
                    **{role: f"{RUN}/alignment/{place}/{role}.parquet" for role in alignment},
                    "firing": f"{RUN}/features/{place}/firing.zarr.zip",
                    "max": f"{RUN}/features/{place}/max.npy",
                    "histogram": f"{RUN}/features/{place}/histogram.npy",
                    "top_tokens": f"{RUN}/features/{place}/top_tokens.parquet",
                    "aggregates": f"{RUN}/features/{place}/cells.zarr.zip",
                    "weights": f"{RUN}/dictionaries/{place}/sae_weights.safetensors",
                    "tis": scored[0] if scored else "",
                }
            )
    return entries


def atlas_steering():
    """Return effects and summary of steering, where a feature of the atlas may have been clamped."""
    clamped = any(space["clamped"] for space in ATLAS_SPACES)
    return [STEERING_FILES["effects"], STEERING_FILES["summary"]] if clamped else []


def steering_params(*keys, tokens=("mode", "max_length", "batch_tokens")):
    """Return the settings of steering with these keys, and those of the tokeniser."""
    main = ARMS[""]
    chosen = {key: main["steering"][key] for key in keys}
    return {**chosen, **{key: main["activations"][key] for key in tokens}}


def finished_run(wildcards):
    """Params function: the files of the run that cells are annotated with; none of them is ever made for it."""
    main = ARMS[""]
    given = settings.checkpoint_files(main) if main["model"]["init"] == "trained" else []
    # As extraction reads it: a checkpoint where it lies (model_file).
    here = given if main["cells"]["genes"] == "all" else []
    model = here or [f"{RUN}/model/{name}" for name in MODEL_FILES]
    try:
        return annotate_settings.run_files(main, RUN, model)
    except InputError as error:
        sys.exit(f"interpTFM: {error}")


def own_environment(family):
    """Return whether a family of rules has an environment of its own, by conda or by name."""
    methods = workflow.deployment_settings.deployment_method
    return DeploymentMethod.CONDA in methods or family in config["environments"]


def placed_file(path):
    """Return a user's file below ``data_root`` as a list; none where it is null or not there."""
    found = str(Path(config["data_root"], path)) if path else ""
    return [found] if found and os.path.isfile(found) else []


def interactions_file(wildcards):
    """Input function: the table of ligands and receptors, where there is one."""
    found = placed_file(config["comparators"]["communication"]["interactions"])
    return {"interactions": found[0]} if found else {}


def ligand_target_matrix(wildcards):
    """Input function: the user's ligand–target matrix, where there is one."""
    found = placed_file(config["comparators"]["nichenet"]["matrix"])
    return {"matrix": found[0]} if found else {}


def nichenet_settings():
    """Return how ligand activity is scored, without where the matrix is."""
    found = ARMS[""]["comparators"]["nichenet"]
    return {key: found[key] for key in found if key != "matrix"}


def second_modality(system):
    """Return the input function of the user's counts beside those of genes, where there is a file."""

    def files(wildcards):
        found = placed_file(config["comparators"][system][MODALITY_KEYS[system]])
        return {"counts": found[0]} if found else {}

    return files


def multimodal_settings(system):
    """Return how a model of two modalities is fitted, without where the second one is."""
    found = ARMS[""]["comparators"][system]
    return {key: found[key] for key in found if key != MODALITY_KEYS[system]}


def tangram_reference(wildcards):
    """Input function: the user's single-cell reference or a simulated one, where there is one."""
    found = [SIMULATED_REFERENCE] if SIMULATED_REFERENCE else given_reference()
    return {"reference": found[0]} if found else {}


def given_reference():
    """Return the user's single-cell reference as a list; none where it is simulated, null or not there."""
    named = config["comparators"]["tangram"]["reference"]
    return placed_file(named if named != steering_settings.SIMULATED else None)


def tangram_settings():
    """Return how a reference is mapped, without where it is."""
    found = ARMS[""]["comparators"]["tangram"]
    return {key: found[key] for key in found if key != "reference"}


def communication_settings():
    """Return how systems of communication are run, without where their interactions are from."""
    found = ARMS[""]["comparators"]["communication"]
    return {key: found[key] for key in found if key not in ("interactions", "resource")}


def fitted(name):
    """Tell whether a system has a latent; its checkpoint, which looks for its package and files, runs first."""
    import json

    summary = getattr(checkpoints, f"fit_{name}").get().output.summary
    return json.loads(Path(summary).read_text())["status"] == "done"


def latent_space(wildcards):
    """Return how a system's latent is read, as an entry of ``tis.units``."""
    return {"name": wildcards.latent, "source": "obsm", "key": f"X_{wildcards.latent}"}


def types_told(wildcards):
    """Input function: how every representation tells cell types; a latent that is not there is left out."""
    there = [name for name in TEXT_REPRESENTATIONS if name not in LATENTS or fitted(name)]
    return {
        **{role: expand(path, representation=there) for role, path in TYPE_TABLES.items()},
        "summary": expand(f"{TYPE_FOLDER}/summary.json", representation=there),
    }


def system_summaries(wildcards):
    """Input function: the summary of every system that the configuration names, in its order."""
    found = []
    for name in COMPARED:
        found.append(f"{COMPARATORS}/{name}/summary.json")
        if TALKING and name == TALKING[-1]:
            found.append(CONCORDANCE["summary"])
        if name in LATENTS and fitted(name):
            found.append(f"{COMPARATORS}/{name}/scored.json")
    return found


def annotation_memory(wildcards, input, attempt):
    """Resource function: the cells to annotate, and those of the run, on whose scale they are scored."""
    cells = [input.cells, *finished_run(wildcards)["cells"]]
    return int((2500 + 60 * megabytes(cells)) * 1.5 ** (attempt - 1))


def annotated_files(wildcards):
    """Input function: what target annotate makes, once the run is found complete."""
    finished_run(wildcards)
    return list(ANNOTATED.values())


def text_sources(wildcards):
    """Input function: what the texts of genes are made of, a table or the concepts."""
    source = config["gene_text"]["texts"]
    if source == text_settings.ONTOLOGY:
        names = {"genes": "genes.tsv", "membership": "membership.npz", "terms": "terms.parquet"}
        return {role: f"{RUN}/concepts/{name}" for role, name in names.items()}
    return {"texts": ncbi_texts() if source == text_settings.NCBI else str(Path(config["data_root"], source))}


def ncbi_texts():
    """Return where the downloaded texts are: with the data, for all runs."""
    return str(Path(config["data_root"], f"ncbi_gene_texts_{config['gene_text']['ncbi']['taxon']}.tsv"))


def downloads_texts():
    """Tell whether the texts are to be downloaded: a rule makes no file that is there, as in fetch.smk."""
    return config["gene_text"]["texts"] == text_settings.NCBI and not os.path.isfile(ncbi_texts())


def provider_settings(wildcards):
    """Params function: a provider of gene vectors."""
    return text_settings.provider(ARMS[""], wildcards.provider)


def provider_inputs(wildcards):
    """Input function: the texts that a provider embeds, or its table."""
    provider = provider_settings(wildcards)
    if provider["kind"] == "table":
        return {"table": str(Path(config["data_root"], provider["path"]))}
    return {"texts": f"{RUN}/gene_text/texts.tsv"}


def form_inputs(wildcards):
    """Input function: the vectors of genes, or the texts that a provider of sentences is fitted to."""
    if wildcards.form == text_settings.SENTENCE:
        return {"texts": f"{RUN}/gene_text/texts.tsv"}
    return {"genes": f"{RUN}/gene_text/{wildcards.provider}/genes.parquet"}


def text_representation(wildcards):
    """Input function: the files of a representation that cell types are told by; none for expression's own."""
    setting = TEXT_REPRESENTATIONS[wildcards.representation]
    if setting["source"] == "text":
        return {"representation": f"{RUN}/gene_text/{setting['provider']}/cells_{setting['form']}.h5ad"}
    if setting["source"] == "cls":
        return {"representation": activation_files("", [setting["layer"]])}
    if setting["source"] == "features":
        return {"representation": f"{RUN}/features/{HEADLINE}/layer_{setting['layer']}/cells.zarr.zip"}
    if setting["source"] == "obsm":
        return {"representation": text_settings.obsm_files(config, setting["path"], list(SAMPLES))}
    return {}


def judge_inputs(wildcards):
    """Input function: as of the score of units, judged by a provider's vectors."""
    return {
        **tis_inputs(wildcards),
        "embedding": f"{RUN}/gene_text/{wildcards.provider}/genes.parquet",
    }


def aligned_texts(wildcards):
    """Input function: summaries of the alignment of baselines and of gene vectors, at the chosen layer."""
    names = [*USED_BASELINES, *TEXT_BASELINES]
    return [f"{RUN}/alignment/{name}/layer_{chosen_layer()}/summary.json" for name in names]


def leaves_of(index):
    """Return the paths of an index, role → path or role → name → path."""
    return [path for each in index.values() for path in (each.values() if isinstance(each, dict) else [each])]


def gene_text_settings(*keys):
    """Return the settings of gene_text with these keys."""
    return {key: ARMS[""]["gene_text"][key] for key in keys}


def donors():
    """Return sample → donor; a sample without one is a donor of its own."""
    return {name: row["donor"] or name for name, row in SAMPLES.items()}


def record_passes():
    """Write which layers share a forward pass; results that cannot be written end the run here."""
    try:
        for name in ARMS:
            if not name or "activations" in OWN[name]:
                passes.write(f"{arm_folder(name, 'activations')}/activations", PASSES[name])
    except OSError as error:
        sentence = job.refused(error, [f"{RUN}/activations"])
        sys.exit(f"interpTFM: {sentence}" if sentence else f"interpTFM: {RUN}: {error}")


def given_files():
    """Return the files that rules read and no rule under ``results/`` makes, of the main and control arms."""
    names = ["", *(name for name, override in config["arms"].items() if override is not None)]
    ontologies = [ARMS[name]["ontology"] for name in names]
    found = [config["samples"]]
    if SIMULATED_RUN:
        found += [f"{DEMO_ONTOLOGY}/{file}" for file in DEMO_FILES.values()]
    else:
        root = config["data_root"]
        found += [
            f for s in SAMPLES.values() for f in settings.sample_files(s, root, False, FETCHED).values()
        ]
    found += [
        str(Path(config["data_root"], ontology[role]))
        for ontology in ontologies
        for role in settings.ONTOLOGY_FILES[ontology["source"]]
    ]
    found += given_embeddings(names)
    for name in names:
        found += settings.checkpoint_files(ARMS[name])
        for dictionary in ARMS[name]["dictionaries"]:
            for layer in settings.dictionary_layers(ARMS[name], dictionary):
                found += settings.imported_files(dictionary, layer)
    for units, layer in scored_units():
        if spaces.unit_settings(config, units)["source"] == "obsm":
            found += unit_files(units, layer)
    judge = None if text_settings.judge_provider(config) else config["tis"]["embedding"]
    found += [str(Path(config["data_root"], path)) for path in (config["ontology"]["slim"], judge) if path]
    main = ARMS[""]
    found += [main["activity"]["channels"], main["crosstalk"]["contrasts"]]
    if main["crosstalk"]["graph"]["kind"] == "obsp":
        found += [squidpy_graph(sample) for sample in SAMPLES]
    if steering_settings.data_file(main):
        found.append(steering_settings.data_file(main))
    return list(dict.fromkeys(found))


def given_systems():
    """Return the files that only the rules of other systems read and no rule under ``results/`` makes."""
    if not COMPARED:
        return []
    block = ARMS[""]["comparators"]
    paths = (
        block["communication"]["interactions"],
        block["nichenet"]["matrix"],
        *(block[system][key] for system, key in MODALITY_KEYS.items()),
    )
    return [found for path in paths for found in placed_file(path)] + given_reference()


def given_texts():
    """Return the files that only the rules of gene texts read and no rule under ``results/`` makes."""
    block, root = config["gene_text"], config["data_root"]
    if not block["enabled"]:
        return []
    tables = [provider["path"] for provider in block["providers"] if provider["kind"] == "table"]
    if block["texts"] not in (text_settings.ONTOLOGY, text_settings.NCBI):
        tables.append(block["texts"])
    found = [str(Path(root, path)) for path in tables]
    found += [ncbi_texts()] if block["texts"] == text_settings.NCBI else []
    for each in block["representations"]:
        found += text_settings.obsm_files(config, each["path"], list(SAMPLES))
    return [path for path in dict.fromkeys(found) if not path.startswith(settings.RESULTS)]


def python_of_rule():
    """Return rule → Python of its family (``environments``), the family being its conda file's name."""
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        return {}
    pythons = {}
    for each in workflow.rules:
        family = Path(str(each.conda_env)).stem if each.conda_env else None
        if family in config["environments"]:
            pythons[each.name] = config["environments"][family]
    return pythons

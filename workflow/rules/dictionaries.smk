"""Sparse dictionaries, one a layer over all samples, and the encoding of every token."""

DICTIONARY_FOLDER = f"{RUN}/{{arm}}dictionaries/{{dictionary}}/layer_{{layer}}"
FEATURES_FOLDER = f"{RUN}/{{arm}}features/{{dictionary}}/layer_{{layer}}"
NEURONS_FOLDER = f"{RUN}/{{arm}}features/{NEURONS}/layer_{{layer}}"


rule train_dictionary:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        imported=imported,
        code=lib("job", "store", "sae"),
    output:
        cfg=f"{DICTIONARY_FOLDER}/cfg.json",
        weights=f"{DICTIONARY_FOLDER}/sae_weights.safetensors",
        training=f"{DICTIONARY_FOLDER}/training.parquet",
        metrics=f"{DICTIONARY_FOLDER}/metrics.json",
        speed=f"{RUN}/{{arm}}benchmarks/train_dictionary/{{dictionary}}_{{layer}}.parquet",
    log:
        f"{RUN}/{{arm}}logs/train_dictionary/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/train_dictionary/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=training_memory,
        runtime=training_minutes,
    params:
        dictionary=trained_settings,
        layer=lambda wildcards: int(wildcards.layer),
        name="{dictionary}",
        seed=config["seed"],
        work=f"{RUN}/.work/{{arm}}dictionaries/{{dictionary}}/layer_{{layer}}",
    script:
        "../../scripts/train_dictionary.py"


rule encode:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        cfg=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/cfg.json"),
        weights=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/sae_weights.safetensors"),
        code=lib("job", "store", "features"),
    output:
        max=f"{FEATURES_FOLDER}/max.npy",
        firing=f"{FEATURES_FOLDER}/firing.zarr.zip",
    log:
        f"{RUN}/{{arm}}logs/encode/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/encode/{{dictionary}}_{{layer}}.tsv"
    wildcard_constraints:
        dictionary=choice(encoded_dictionaries()),
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 0.5),
    params:
        representation="{dictionary}",
        layer=lambda wildcards: int(wildcards.layer),
        thresholds=setting("features.thresholds"),
        grid=setting("features.grid"),
    script:
        "../../scripts/encode.py"


# Apart from encode, because control arms are compared by their firing counts alone.
rule aggregate:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        cfg=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/cfg.json"),
        weights=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/sae_weights.safetensors"),
        max=at("features", "features/{dictionary}/layer_{layer}/max.npy"),
        code=lib("job", "store", "features"),
    output:
        cells=f"{FEATURES_FOLDER}/cells.zarr.zip",
        top_tokens=f"{FEATURES_FOLDER}/top_tokens.parquet",
        histogram=f"{FEATURES_FOLDER}/histogram.npy",
    log:
        f"{RUN}/{{arm}}logs/aggregate/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/aggregate/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 0.5),
    params:
        representation="{dictionary}",
        layer=lambda wildcards: int(wildcards.layer),
        top_tokens=setting("features.top_tokens"),
    script:
        "../../scripts/aggregate.py"


rule encode_neurons:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        code=lib("job", "store", "features"),
    output:
        max=f"{NEURONS_FOLDER}/max.npy",
        firing=f"{NEURONS_FOLDER}/firing.zarr.zip",
    log:
        f"{RUN}/{{arm}}logs/encode_neurons/{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/encode_neurons/{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 0.5),
    params:
        representation=NEURONS,
        layer=lambda wildcards: int(wildcards.layer),
        thresholds=setting("features.thresholds"),
        grid=setting("features.grid"),
    script:
        "../../scripts/encode.py"

"""Quality of dictionaries: loss recovered, stability over seeds, absorption, and the frontier of a sweep."""

SEED_FOLDER = f"{DICTIONARY_FOLDER}/seed_{{number}}"
ABSORPTION = [
    f"{RUN}/absorption/{HEADLINE}/layer_{layer}.tsv" for layer in representation_layers("", HEADLINE)
]
FRONTIER = ARMS[""]["extras"]["frontier"]
# Of the main arm, and of arms that train other dictionaries on its activations.
STABILITY = stability_files([name for name in ARMS if "activations" not in OWN[name]])


rule dictionary_quality:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        args=at("model", "model/args.json"),
        vocab=at("model", "model/vocab.json"),
        model=at("model", "model/best_model.pt"),
        cfg=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/cfg.json"),
        weights=at("dictionaries", "dictionaries/{dictionary}/layer_{layer}/sae_weights.safetensors"),
        code=lib("job", "store", "activations", "pretrain", "sae", "dictionary_quality.recovered"),
    output:
        quality=f"{DICTIONARY_FOLDER}/quality.json",
    log:
        f"{RUN}/{{arm}}logs/dictionary_quality/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/dictionary_quality/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 12),
        runtime=minutes(30),
    params:
        layer=lambda wildcards: int(wildcards.layer),
        tokens=dictionary_tokens,
        mask_ratios=setting("model.pretrain.mask_ratios"),
        mode=setting("activations.mode"),
        max_length=setting("activations.max_length"),
        seed=config["seed"],
    script:
        "../../scripts/dictionary_quality.py"


use rule train_dictionary as train_seed with:
    output:
        cfg=f"{SEED_FOLDER}/cfg.json",
        weights=f"{SEED_FOLDER}/sae_weights.safetensors",
        training=f"{SEED_FOLDER}/training.parquet",
        metrics=f"{SEED_FOLDER}/metrics.json",
        speed=f"{RUN}/{{arm}}benchmarks/train_dictionary/{{dictionary}}_{{layer}}_seed_{{number}}.parquet",
    log:
        f"{RUN}/{{arm}}logs/train_dictionary/{{dictionary}}_{{layer}}_seed_{{number}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/train_dictionary/{{dictionary}}_{{layer}}_seed_{{number}}.tsv"
    params:
        dictionary=trained_settings,
        layer=lambda wildcards: int(wildcards.layer),
        name=lambda wildcards: f"{wildcards.dictionary}/seed_{wildcards.number}",
        seed=config["seed"],
        work=f"{RUN}/.work/{{arm}}dictionaries/{{dictionary}}/layer_{{layer}}/seed_{{number}}",


rule stability:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        cfg=f"{DICTIONARY_FOLDER}/cfg.json",
        weights=f"{DICTIONARY_FOLDER}/sae_weights.safetensors",
        seeds=seed_weights,
        code=lib("job", "store", "sae", "dictionary_quality.stability"),
    output:
        features=f"{DICTIONARY_FOLDER}/stability.parquet",
        summary=f"{DICTIONARY_FOLDER}/stability.json",
    log:
        f"{RUN}/{{arm}}logs/stability/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/stability/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(4000, 12),
        runtime=minutes(30),
    params:
        layer=lambda wildcards: int(wildcards.layer),
        tokens=dictionary_tokens,
        dictionary="{dictionary}",
        seed=config["seed"],
    script:
        "../../scripts/stability.py"


rule absorption:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        activations=lambda wildcards: activation_files("", [int(wildcards.layer)]),
        cfg=f"{RUN}/dictionaries/{{dictionary}}/layer_{{layer}}/cfg.json",
        weights=f"{RUN}/dictionaries/{{dictionary}}/layer_{{layer}}/sae_weights.safetensors",
        interpretable=f"{RUN}/alignment/{{dictionary}}/layer_{{layer}}/interpretable.parquet",
        dag=f"{RUN}/concepts/dag.parquet",
        terms=f"{RUN}/concepts/terms.parquet",
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        code=lib("job", "store", "features", "alignment", "dictionary_quality.absorption"),
    output:
        pairs=report(
            f"{RUN}/absorption/{{dictionary}}/layer_{{layer}}.tsv",
            caption="../report/absorption.rst",
            category="Dictionaries",
            labels={"table": "absorption", "dictionary": "{dictionary}", "layer": "{layer}"},
        ),
    log:
        f"{RUN}/logs/absorption/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/absorption/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30),
    params:
        layer=lambda wildcards: int(wildcards.layer),
        dictionary="{dictionary}",
    script:
        "../../scripts/absorption.py"


if FRONTIER:

    rule frontier:
        input:
            metrics=[
                f"{RUN}/dictionaries/{point['dictionary']}/layer_{point['layer']}/metrics.json"
                for point in frontier_points()
            ],
            quality=[
                f"{RUN}/dictionaries/{point['dictionary']}/layer_{point['layer']}/quality.json"
                for point in (frontier_points() if MODEL_IS_RUN else [])
            ],
            alignment=[
                f"{RUN}/alignment/{point['dictionary']}/layer_{point['layer']}/summary.json"
                for point in frontier_points()
            ],
            code=lib("job", "store"),
        output:
            frontier=f"{RUN}/frontier.tsv",
        log:
            f"{RUN}/logs/frontier.log",
        benchmark:
            f"{RUN}/benchmarks/frontier.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(10),
        params:
            points=frontier_points(),
        script:
            "../../scripts/frontier.py"

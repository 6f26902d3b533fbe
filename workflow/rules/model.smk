"""The model (loaded, trained in place, or untrained for a control arm) and its activations."""

MODEL_FOLDER = f"{RUN}/{{arm}}model"


rule build_model:
    input:
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        checkpoint=given_checkpoint,
        code=lib("job", "store", "pretrain", "scgpt.checkpoint"),
    output:
        args=f"{MODEL_FOLDER}/args.json",
        vocab=f"{MODEL_FOLDER}/vocab.json",
        weights=f"{MODEL_FOLDER}/best_model.pt",
        training=f"{MODEL_FOLDER}/training.parquet",
        metrics=f"{MODEL_FOLDER}/metrics.json",
    log:
        f"{RUN}/{{arm}}logs/build_model.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/build_model.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 2
    resources:
        mem_mb=memory(2500, 6),
        runtime=minutes(60, 120),
    params:
        model=setting("model", leave_out=["backend", "embeddings"]),
        genes=setting("cells.genes"),
        mode=setting("activations.mode"),
        max_length=setting("activations.max_length"),
        seed=config["seed"],
        work=f"{RUN}/.work/{{arm}}model",
    script:
        "../../scripts/build_model.py"


rule extract:
    input:
        args=model_file("args.json"),
        vocab=model_file("vocab.json"),
        weights=model_file("best_model.pt"),
        cells=at("cells", "cells/{sample}.h5ad"),
        code=lib("job", "store", "activations", "scgpt"),
    output:
        activations=f"{RUN}/{{arm}}activations/{{sample}}/{{shard}}{{part}}.zarr.zip",
    log:
        f"{RUN}/{{arm}}logs/extract/{{sample}}_{{shard}}{{part}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/extract/{{sample}}_{{shard}}{{part}}.tsv"
    wildcard_constraints:
        arm=prefixes(RUN_BY_MODEL),
    conda:
        (
            "../../envs/scgpt.yaml"
            if any(arm["model"]["backend"] == "scgpt" for arm in ARMS.values())
            else "../../envs/model.yaml"
        )
    threads: 2
    resources:
        mem_mb=memory(3000, 6),
        runtime=minutes(60, 120),
    params:
        sample="{sample}",
        shard=lambda wildcards: int(wildcards.shard),
        layers=pass_layers,
        backend=setting("model.backend"),
        dtype=setting("activations.dtype"),
        mantissa_bits=setting("activations.mantissa_bits"),
        gene_tokens=setting("activations.gene_tokens"),
        mode=setting("activations.mode"),
        max_length=setting("activations.max_length"),
        batch_tokens=setting("activations.batch_tokens"),
        genes=setting("cells.genes"),
        seed=config["seed"],
    script:
        "../../scripts/extract.py"


# Takes the place of extract in arms with model.backend files.
rule convert_embeddings:
    input:
        unpack(embeddings_of_sample),
        cells=at("cells", "cells/{sample}.h5ad"),
        code=lib("job", "store", "embeddings"),
    output:
        activations=f"{RUN}/{{arm}}activations/{{sample}}/{{shard}}{{part}}.zarr.zip",
    log:
        f"{RUN}/{{arm}}logs/convert_embeddings/{{sample}}_{{shard}}{{part}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/convert_embeddings/{{sample}}_{{shard}}{{part}}.tsv"
    wildcard_constraints:
        arm=prefixes(FROM_FILES),
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 0.5),
        runtime=minutes(30, 10),
    params:
        sample="{sample}",
        shard=lambda wildcards: int(wildcards.shard),
        layers=pass_layers,
        dtype=setting("activations.dtype"),
        mantissa_bits=setting("activations.mantissa_bits"),
    script:
        "../../scripts/convert_embeddings.py"


# A model that is not scGPT, with random weights, for the arm second_model of extras; medians are over all samples.
rule embed_second_model:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "embeddings", "second_model"),
    output:
        tokens=temp(f"{RUN}/second_model/{{sample}}.h5ad"),
    log:
        f"{RUN}/logs/embed_second_model/{{sample}}.log",
    benchmark:
        f"{RUN}/benchmarks/embed_second_model/{{sample}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 2
    resources:
        mem_mb=memory(2500, 12),
        runtime=minutes(30, 60),
    params:
        sample="{sample}",
        seed=config["seed"],
    script:
        "../../scripts/embed_second_model.py"

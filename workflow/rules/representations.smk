"""Simpler representations through the same code, at the layer chosen on validation, and the one table."""

BASELINE_FOLDER = f"{RUN}/features/{{baseline}}/layer_{{layer}}"
ACTIVATION_BASELINES = [name for name in BASELINES if name in ("pca", "nmf", "random")]
GENE_BASELINES = [name for name in BASELINES if name not in ACTIVATION_BASELINES]
# Static embeddings of genes are a model's, which is not there where its activations come from files.
USED_BASELINES = [name for name in config["baselines"]["names"] if name != "static" or MODEL_IS_RUN]


checkpoint choose_layer:
    input:
        summaries=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [HEADLINE]),
        code=lib("job", "store", "recovery"),
    output:
        choice=f"{RUN}/alignment/chosen_layer.json",
    log:
        f"{RUN}/logs/choose_layer.log",
    benchmark:
        f"{RUN}/benchmarks/choose_layer.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(5),
    params:
        layers=representation_layers("", HEADLINE),
    script:
        "../../scripts/choose_layer.py"


rule fit_baseline:
    input:
        unpack(baseline_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "features", "activations"),
    output:
        representation=f"{BASELINE_FOLDER}/representation.zarr.zip",
    log:
        f"{RUN}/logs/fit_baseline/{{baseline}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/fit_baseline/{{baseline}}_{{layer}}.tsv"
    wildcard_constraints:
        baseline=choice(BASELINES),
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 10),
    params:
        representation="{baseline}",
        layer=lambda wildcards: int(wildcards.layer),
        components=ARMS[""]["baselines"]["components"],
        seed=config["seed"],
    script:
        "../../scripts/fit_baseline.py"


rule encode_baseline:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        activations=lambda wildcards: activation_files("", [int(wildcards.layer)]),
        representation=f"{BASELINE_FOLDER}/representation.zarr.zip",
        code=lib("job", "store", "features"),
    output:
        max=f"{BASELINE_FOLDER}/max.npy",
        firing=f"{BASELINE_FOLDER}/firing.zarr.zip",
    log:
        f"{RUN}/logs/encode_baseline/{{baseline}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/encode_baseline/{{baseline}}_{{layer}}.tsv"
    wildcard_constraints:
        baseline=choice([*BASELINES, *TEXT_BASELINES]),
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 0.5),
    params:
        representation="{baseline}",
        layer=lambda wildcards: int(wildcards.layer),
        thresholds=ARMS[""]["features"]["thresholds"],
        grid=ARMS[""]["features"]["grid"],
    script:
        "../../scripts/encode.py"


rule compare_representations:
    input:
        baselines=aligned_baselines("summary.json"),
        choice=f"{RUN}/alignment/chosen_layer.json",
        main=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [HEADLINE]),
        neurons=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [NEURONS]),
        arms=arm_summaries(),
        code=lib("job", "store", "headline"),
    output:
        table=report(
            f"{RUN}/alignment/headline.tsv",
            caption="../report/headline.rst",
            category="Concept alignment",
            labels={"table": "headline"},
        ),
        summary=f"{RUN}/alignment/summary.json",
    log:
        f"{RUN}/logs/compare_representations.log",
    benchmark:
        f"{RUN}/benchmarks/compare_representations.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(5),
    params:
        headline=HEADLINE,
    script:
        "../../scripts/compare_representations.py"


READING_FOLDER = f"{RUN}/reading/{HEADLINE}/layer_{{layer}}"
READING_FILES = {
    name: f"{READING_FOLDER}/{name}.parquet"
    for name in ("terms", "enrichment", "entropy", "predictors", "path", "fits")
}
READING_FILES["summary"] = f"{READING_FOLDER}/summary.json"


rule read_features:
    input:
        unpack(slim_file),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        firing=f"{RUN}/features/{HEADLINE}/layer_{{layer}}/firing.zarr.zip",
        aggregates=f"{RUN}/features/{HEADLINE}/layer_{{layer}}/cells.zarr.zip",
        interpretable=f"{RUN}/alignment/{HEADLINE}/layer_{{layer}}/interpretable.parquet",
        pairs=f"{RUN}/alignment/{HEADLINE}/layer_{{layer}}/pairs.parquet",
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        terms=f"{RUN}/concepts/terms.parquet",
        dag=f"{RUN}/concepts/dag.parquet",
        evidence=f"{RUN}/concepts/evidence.parquet",
        code=lib("job", "store", "reading", "alignment", "features", "ontology"),
    output:
        **READING_FILES,
    log:
        f"{RUN}/logs/read_features/{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/read_features/{{layer}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 12),
        runtime=minutes(30, 10),
    params:
        reading=ARMS[""]["reading"],
        layer=lambda wildcards: int(wildcards.layer),
        seed=config["seed"],
    script:
        "../../scripts/read_features.py"


rule diff_concepts:
    input:
        **{
            f"{side}_{role}": f"{RUN}/{folder}concepts/{file}"
            for side, folder in (("old", ""), ("new", "arms/{other}/"))
            for role, file in (
                ("terms", "terms.parquet"),
                ("membership", "membership.npz"),
                ("genes", "genes.tsv"),
            )
        },
        old_summaries=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [HEADLINE]),
        new_summaries=lambda wildcards: layered(
            "alignment/{dictionary}/layer_{layer}/summary.json", wildcards.other, [HEADLINE]
        ),
        code=lib("job", "store", "ontology", "alignment"),
    output:
        terms=f"{RUN}/diff/{{other}}/terms.tsv",
        memberships=f"{RUN}/diff/{{other}}/memberships.tsv",
        headline=f"{RUN}/diff/{{other}}/headline.tsv",
        summary=f"{RUN}/diff/{{other}}/summary.json",
    log:
        f"{RUN}/logs/diff_concepts/{{other}}.log",
    benchmark:
        f"{RUN}/benchmarks/diff_concepts/{{other}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        other="{other}",
    script:
        "../../scripts/diff_concepts.py"


# Models beside one another: of the main and the control arms where one of these is read from files, and, for
# extras, of those of extras, too.
CONTROL_MODELS = compared_models(CONTROL_ARMS)
ALL_MODELS = compared_models([*CONTROL_ARMS, *(name for name in EXTRA_ARMS if name in FROM_FILES)])
CONTROL_MODELS_TABLE = [f"{RUN}/alignment/models.tsv"] if {*CONTROL_ARMS} & {*FROM_FILES} else []
MODELS_TABLE = [f"{RUN}/models.tsv"] if FROM_FILES else []


rule compare_models:
    input:
        **models_input(ALL_MODELS),
        code=lib("job", "store", "models"),
    output:
        models=f"{RUN}/models.tsv",
    log:
        f"{RUN}/logs/compare_models.log",
    benchmark:
        f"{RUN}/benchmarks/compare_models.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        models=models_params(ALL_MODELS),
        seed=config["seed"],
    script:
        "../../scripts/compare_models.py"


use rule compare_models as compare_control_models with:
    input:
        **models_input(CONTROL_MODELS),
        code=lib("job", "store", "models"),
    output:
        models=f"{RUN}/alignment/models.tsv",
    log:
        f"{RUN}/logs/compare_control_models.log",
    benchmark:
        f"{RUN}/benchmarks/compare_control_models.tsv"
    params:
        models=models_params(CONTROL_MODELS),
        seed=config["seed"],


DIFF_TARGETS = [
    f"{RUN}/diff/{name}/summary.json"
    for name in ARMS
    if name and "concepts" in OWN[name] and "cells" not in OWN[name]
]

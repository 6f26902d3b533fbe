"""Concepts (terms × genes) and their alignment with features: F1, null, baselines."""

CONCEPTS_FOLDER = f"{RUN}/{{arm}}concepts"
ALIGNMENT_FOLDER = f"{RUN}/{{arm}}alignment/{{dictionary}}/layer_{{layer}}"
CONCEPT_FILES = {
    "terms": f"{RUN}/concepts/terms.parquet",
    "membership": f"{RUN}/concepts/membership.npz",
    "genes": f"{RUN}/concepts/genes.tsv",
    "dag": f"{RUN}/concepts/dag.parquet",
    "evidence": f"{RUN}/concepts/evidence.parquet",
    "query": f"{RUN}/concepts/query.json",
}


rule build_concepts:
    input:
        unpack(ontology_files),
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        code=lib("job", "store", "ontology"),
    output:
        terms=f"{CONCEPTS_FOLDER}/terms.parquet",
        membership=f"{CONCEPTS_FOLDER}/membership.npz",
        genes=f"{CONCEPTS_FOLDER}/genes.tsv",
        dag=f"{CONCEPTS_FOLDER}/dag.parquet",
        evidence=f"{CONCEPTS_FOLDER}/evidence.parquet",
        query=f"{CONCEPTS_FOLDER}/query.json",
    log:
        f"{RUN}/{{arm}}logs/build_concepts.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/build_concepts.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 12),
        runtime=minutes(10),
    params:
        ontology=concept_settings,
    script:
        "../../scripts/build_concepts.py"


rule align:
    input:
        unpack(source_of_codes),
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        activations=activations_of_layer,
        firing=at("features", "features/{dictionary}/layer_{layer}/firing.zarr.zip"),
        max=at("features", "features/{dictionary}/layer_{layer}/max.npy"),
        membership=at("concepts", "concepts/membership.npz"),
        terms=at("concepts", "concepts/terms.parquet"),
        genes=at("concepts", "concepts/genes.tsv"),
        stability=stability_of,
        code=lib("job", "store", "alignment", "features", "stats"),
    output:
        pairs=f"{ALIGNMENT_FOLDER}/pairs.parquet",
        concepts=f"{ALIGNMENT_FOLDER}/concepts.parquet",
        features=f"{ALIGNMENT_FOLDER}/features.parquet",
        interpretable=f"{ALIGNMENT_FOLDER}/interpretable.parquet",
        null=f"{ALIGNMENT_FOLDER}/null.parquet",
        summary=f"{ALIGNMENT_FOLDER}/summary.json",
    log:
        f"{RUN}/{{arm}}logs/align/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/align/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 10),
    params:
        alignment=setting("alignment"),
        representation="{dictionary}",
        layer=lambda wildcards: int(wildcards.layer),
        arm=lambda wildcards: arm_name(wildcards) or "main",
        seed=config["seed"],
    script:
        "../../scripts/align.py"

"""Linear probes of concepts by layer, sparse probes on dictionary features, and how directions lie."""

PROBE_FOLDER = f"{RUN}/{{arm}}probes/layer_{{layer}}"
PROBE_NAMES = {
    "weights": "probes.safetensors",
    "document": "probes.json",
    "metrics": "metrics.parquet",
    "summary": "summary.parquet",
}
PROBED = probed_layers()
COSINES = f"{RUN}/probes/cosines.parquet"
SPARSE_NAMES = {"terms_table": "sparse.parquet", "path": "sparse_path.parquet"}
PROBE_FILES = [
    f"{RUN}/{f'arms/{name}/' if name else ''}probes/layer_{layer}/{file}"
    for name, layer in PROBED
    for file in PROBE_NAMES.values()
]


rule fit_probes:
    input:
        activations=activations_of_layer,
        cells=at_samples("cells", "cells/{sample}.h5ad"),
        membership=at("concepts", "concepts/membership.npz"),
        genes=at("concepts", "concepts/genes.tsv"),
        terms=at("concepts", "concepts/terms.parquet"),
        code=lib("job", "store", "features", "alignment", "probes"),
    output:
        **{role: f"{PROBE_FOLDER}/{file}" for role, file in PROBE_NAMES.items()},
    log:
        f"{RUN}/{{arm}}logs/fit_probes/{{layer}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/fit_probes/{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(6000, 12),
        runtime=minutes(60, 5),
    params:
        probes={key: value for key, value in ARMS[""]["probes"].items() if key not in ("arms", "sparse")},
        layer=lambda wildcards: int(wildcards.layer),
        seed=config["seed"],
    script:
        "../../scripts/fit_probes.py"


rule sparse_probes:
    input:
        firing=f"{RUN}/features/{HEADLINE}/layer_{{layer}}/firing.zarr.zip",
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        terms=f"{RUN}/concepts/terms.parquet",
        code=lib("job", "store", "features", "alignment", "probes"),
    output:
        **{role: f"{RUN}/probes/layer_{{layer}}/{file}" for role, file in SPARSE_NAMES.items()},
    log:
        f"{RUN}/logs/sparse_probes/{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/sparse_probes/{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(60),
    params:
        probes={
            "max_features": ARMS[""]["probes"]["sparse"]["max_features"],
            "gene_folds": ARMS[""]["probes"]["gene_folds"],
            "min_genes": ARMS[""]["probes"]["min_genes"],
        },
        layer=lambda wildcards: int(wildcards.layer),
        seed=config["seed"],
    script:
        "../../scripts/sparse_probes.py"


rule compare_directions:
    input:
        documents=[f"{RUN}/probes/layer_{layer}/probes.json" for name, layer in PROBED if not name],
        weights=[f"{RUN}/probes/layer_{layer}/probes.safetensors" for name, layer in PROBED if not name],
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        code=lib("job", "store", "alignment", "probes"),
    output:
        cosines=COSINES,
    log:
        f"{RUN}/logs/compare_directions.log",
    benchmark:
        f"{RUN}/benchmarks/compare_directions.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 4),
        runtime=minutes(20),
    params:
        seed=config["seed"],
    script:
        "../../scripts/compare_directions.py"

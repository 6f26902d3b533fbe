"""Embeddings of gene descriptions, and how well cell types are told by them (no part of `all`)."""

TEXT_FOLDER = f"{RUN}/gene_text"
TYPE_FOLDER = f"{TEXT_FOLDER}/types/{{representation}}"
TYPE_TABLES = {role: f"{TYPE_FOLDER}/{role}.parquet" for role in ("predictions", "curve", "null")}
TEXT_TABLES = {role: f"{TEXT_FOLDER}/{role}.tsv" for role in ("scores", "differences", "types", "curve")}
TEXT_TABLES["summary"] = f"{TEXT_FOLDER}/summary.json"
MAPPED = [f"{provider['name']}_weighted" for provider in ARMS[""]["gene_text"]["providers"]] + ["pca"]
# Role -> path, or name -> path: what the report shows.
GENE_TEXT_INDEX = {
    **TEXT_TABLES,
    "alignment": f"{TEXT_FOLDER}/alignment.tsv",
    "maps": {name: f"{TEXT_FOLDER}/maps/{name}.parquet" for name in MAPPED},
    "providers": {name: f"{TEXT_FOLDER}/{name}/summary.json" for name in TEXT_PROVIDERS},
    "terms": {name: f"{TEXT_FOLDER}/{name}/terms.parquet" for name in TEXT_PROVIDERS},
    "tis": {
        name: f"{TEXT_FOLDER}/{name}/tis/{REGION_UNITS}/layer_{REGION_LAYER}/summary.json"
        for name in TEXT_PROVIDERS
    },
}
GENE_TEXT_FILES = leaves_of(GENE_TEXT_INDEX) if ARMS[""]["gene_text"]["enabled"] else []


if downloads_texts():

    rule fetch_gene_texts:
        input:
            code=ancient(lib("job", "store", "gene_text.ncbi")),
        output:
            texts=ensure(ncbi_texts(), non_empty=True),
        log:
            f"{RUN}/logs/fetch_gene_texts.log",
        benchmark:
            f"{RUN}/benchmarks/fetch_gene_texts.tsv"
        localrule: True
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(60),
        params:
            **ARMS[""]["gene_text"]["ncbi"],
            work=f"{RUN}/.work/fetch",
        script:
            "../../scripts/fetch_gene_texts.py"


rule describe_genes:
    input:
        unpack(text_sources),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "ontology", "gene_text.texts", "tis.units"),
    output:
        texts=f"{TEXT_FOLDER}/texts.tsv",
    log:
        f"{RUN}/logs/describe_genes.log",
    benchmark:
        f"{RUN}/benchmarks/describe_genes.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        max_terms=ARMS[""]["gene_text"]["max_terms"],
    script:
        "../../scripts/describe_genes.py"


rule embed_genes:
    input:
        unpack(provider_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "ontology", "gene_text.providers", "gene_text.texts"),
    output:
        genes=f"{TEXT_FOLDER}/{{provider}}/genes.parquet",
        summary=f"{TEXT_FOLDER}/{{provider}}/summary.json",
    log:
        f"{RUN}/logs/embed_genes/{{provider}}.log",
    benchmark:
        f"{RUN}/benchmarks/embed_genes/{{provider}}.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(120),
    params:
        provider=provider_settings,
        seed=config["seed"],
    script:
        "../../scripts/embed_genes.py"


rule embed_cells:
    input:
        unpack(form_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "gene_text.cells", "gene_text.texts"),
    output:
        cells=f"{TEXT_FOLDER}/{{provider}}/cells_{{form}}.h5ad",
    log:
        f"{RUN}/logs/embed_cells/{{provider}}_{{form}}.log",
    benchmark:
        f"{RUN}/benchmarks/embed_cells/{{provider}}_{{form}}.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(4000, 30),
        runtime=minutes(240),
    params:
        provider=provider_settings,
        form="{form}",
        n_genes=ARMS[""]["gene_text"]["cells"]["genes"],
        seed=config["seed"],
    script:
        "../../scripts/embed_cells.py"


rule classify_cells:
    input:
        unpack(text_representation),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "gene_text.classification"),
    output:
        **TYPE_TABLES,
        summary=f"{TYPE_FOLDER}/summary.json",
    log:
        f"{RUN}/logs/classify_cells/{{representation}}.log",
    benchmark:
        f"{RUN}/benchmarks/classify_cells/{{representation}}.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(4000, 60),
        runtime=minutes(60),
    params:
        name="{representation}",
        source=lambda wildcards: TEXT_REPRESENTATIONS[wildcards.representation],
        gene_text=gene_text_settings(
            "split", "min_cells", "max_cells", "rare", "knn", "components", "contrastive", "curve", "nulls"
        ),
        donors=donors(),
        guard_um=ARMS[""]["cells"]["blocks"]["guard_um"],
        seed=config["seed"],
    script:
        "../../scripts/classify_cells.py"


rule map_cells:
    input:
        unpack(text_representation),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "gene_text.maps"),
    output:
        map=f"{TEXT_FOLDER}/maps/{{representation}}.parquet",
    log:
        f"{RUN}/logs/map_cells/{{representation}}.log",
    benchmark:
        f"{RUN}/benchmarks/map_cells/{{representation}}.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(4000, 60),
        runtime=minutes(30),
    params:
        source=lambda wildcards: TEXT_REPRESENTATIONS[wildcards.representation],
        gene_text=gene_text_settings(
            "split", "min_cells", "max_cells", "rare", "components", "contrastive", "umap"
        ),
        donors=donors(),
        guard_um=ARMS[""]["cells"]["blocks"]["guard_um"],
        seed=config["seed"],
    script:
        "../../scripts/map_cells.py"


rule compare_cell_types:
    input:
        unpack(types_told),
        code=lib("job", "store", "gene_text.comparison", "tis.units"),
    output:
        **TEXT_TABLES,
    log:
        f"{RUN}/logs/compare_cell_types.log",
    benchmark:
        f"{RUN}/benchmarks/compare_cell_types.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(20),
    params:
        reference="pca",
        bootstrap=ARMS[""]["gene_text"]["bootstrap"],
        seed=config["seed"],
    script:
        "../../scripts/compare_cell_types.py"


rule mark_types:
    input:
        vectors=f"{TEXT_FOLDER}/{{provider}}/genes.parquet",
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        terms=f"{RUN}/concepts/terms.parquet",
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "gene_text.terms"),
    output:
        terms=f"{TEXT_FOLDER}/{{provider}}/terms.parquet",
    log:
        f"{RUN}/logs/mark_types/{{provider}}.log",
    benchmark:
        f"{RUN}/benchmarks/mark_types/{{provider}}.tsv"
    conda:
        "../../envs/gene_text.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(4000, 60),
        runtime=minutes(60),
    params:
        gene_text=gene_text_settings("cells", "max_cells", "terms"),
        seed=config["seed"],
    script:
        "../../scripts/mark_types.py"


# The units that compartments are called from, judged by the texts of genes instead of by expression.
use rule score_units as judge_by_text with:
    input:
        unpack(judge_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "tis"),
    output:
        **{
            role: f"{TEXT_FOLDER}/{{provider}}/tis/{{units}}/layer_{{layer}}/{file}"
            for role, file in TIS_TABLES.items()
        },
    log:
        f"{RUN}/logs/judge_by_text/{{provider}}_{{units}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/judge_by_text/{{provider}}_{{units}}_{{layer}}.tsv"


rule represent_text:
    input:
        vectors=f"{TEXT_FOLDER}/{{provider}}/genes.parquet",
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "features", "tis.units"),
    output:
        representation=f"{RUN}/features/{text_settings.baseline('{provider}')}/layer_{{layer}}/representation.zarr.zip",
    log:
        f"{RUN}/logs/represent_text/{{provider}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/represent_text/{{provider}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2000, 12),
        runtime=minutes(10),
    params:
        provider="{provider}",
    script:
        "../../scripts/represent_text.py"


use rule compare_representations as compare_text_alignment with:
    input:
        baselines=aligned_texts,
        choice=f"{RUN}/alignment/chosen_layer.json",
        main=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [HEADLINE]),
        neurons=layered("alignment/{dictionary}/layer_{layer}/summary.json", "", [NEURONS]),
        arms=[],
        code=lib("job", "store", "headline"),
    output:
        table=f"{TEXT_FOLDER}/alignment.tsv",
        summary=f"{TEXT_FOLDER}/alignment.json",
    log:
        f"{RUN}/logs/compare_text_alignment.log",
    benchmark:
        f"{RUN}/benchmarks/compare_text_alignment.tsv"

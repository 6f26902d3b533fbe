"""Simulated tissue (the demo) and ingest of sections into cells."""

SIMULATED = f"{RUN}/{{arm}}simulated"
TRUTH = f"{RUN}/{{arm}}truth"
DEMO_ONTOLOGY = "resources/demo_ontology"
DEMO_FILES = {
    "obo": "demo.obo",
    "gaf": "demo.gaf",
    "panel": "panel.tsv",
    "programs": "programs.tsv",
    "pairs": "pairs.tsv",
}


if config["simulate"]["enabled"]:

    rule simulate:
        input:
            **{role: f"{DEMO_ONTOLOGY}/{file}" for role, file in DEMO_FILES.items()},
            code=lib("job", "store", "simulate.model", "ontology"),
        output:
            counts=simulated_files("counts"),
            metadata=simulated_files("metadata"),
            positions=simulated_files("positions"),
            cell_types=simulated_files("cell_types"),
            truth=expand(
                f"{TRUTH}/{{table}}.parquet",
                table=["programs", "program_genes", "cells", "pairs"],
                allow_missing=True,
            ),
        log:
            f"{RUN}/{{arm}}logs/simulate.log",
        benchmark:
            f"{RUN}/{{arm}}benchmarks/simulate.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=simulation_memory,
            runtime=minutes(10),
        params:
            settings=setting("simulate"),
            samples=list(SAMPLES),
            seed=config["seed"],
        script:
            "../../scripts/simulate.py"


rule ingest:
    input:
        unpack(section_files),
        code=lib("job", "store", "cosmx", "blocks", "qc"),
    output:
        cells=f"{RUN}/{{arm}}cells/{{sample}}.h5ad",
        qc=report(
            f"{RUN}/{{arm}}cells/{{sample}}.qc.tsv",
            caption="../report/qc_table.rst",
            category="Cells",
            labels={"section": "{sample}", "shows": "counts of cells"},
        ),
        figure=report(
            f"{RUN}/{{arm}}cells/{{sample}}.qc.svg",
            caption="../report/qc.rst",
            category="Cells",
            labels={"section": "{sample}", "shows": "figure"},
        ),
    log:
        f"{RUN}/{{arm}}logs/ingest/{{sample}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/ingest/{{sample}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 8),
        runtime=minutes(15, 10),
    params:
        sample="{sample}",
        samples=samples_of_split,
        format=section("format"),
        donor=section("donor"),
        pixel_size_um=section("pixel_size_um"),
        cell_types_column=cell_types_column,
        shards=section("shards"),
        cells=setting("cells", leave_out=["genes"]),
        seed=config["seed"],
    script:
        "../../scripts/ingest.py"

"""Simulated tissue (the demo) and ingest of sections into cells."""

SIMULATED = f"{RUN}/{{arm}}simulated"
TRUTH = f"{RUN}/{{arm}}truth"
DEMO_ONTOLOGY = "resources/demo_ontology"


def simulated_files(role):
    return [
        settings.sample_files(row, SIMULATED, simulated=True)[role] for row in SAMPLES.values()
    ]


if config["simulate"]["enabled"]:

    rule simulate:
        input:
            obo=f"{DEMO_ONTOLOGY}/demo.obo",
            gaf=f"{DEMO_ONTOLOGY}/demo.gaf",
            panel=f"{DEMO_ONTOLOGY}/panel.tsv",
            programs=f"{DEMO_ONTOLOGY}/programs.tsv",
            code=lib("job", "store", "simulate", "ontology"),
        output:
            counts=simulated_files("counts"),
            metadata=simulated_files("metadata"),
            positions=simulated_files("positions"),
            cell_types=simulated_files("cell_types"),
            truth=expand(
                f"{TRUTH}/{{table}}.parquet",
                table=["programs", "program_genes", "cells"],
                allow_missing=True,
            ),
        params:
            settings=setting("simulate"),
            samples=list(SAMPLES),
            seed=config["seed"],
        log:
            f"{RUN}/{{arm}}logs/simulate.log",
        benchmark:
            f"{RUN}/{{arm}}benchmarks/simulate.tsv"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(10),
        conda:
            "../../envs/data.yaml"
        script:
            "../../scripts/simulate.py"


def section_files(wildcards):
    """Return the files of a section by role, simulated or real, and the vocabulary of a given model."""
    root = config["data_root"]
    if config["simulate"]["enabled"]:
        root = f"{arm_folder(arm_name(wildcards), 'simulated')}/simulated"
    files = settings.sample_files(SAMPLES[wildcards.sample], root, config["simulate"]["enabled"])
    given = settings.checkpoint_files(ARMS[arm_name(wildcards)])
    return {**files, "vocabulary": given[1]} if given else files


def section(key):
    return lambda wildcards: SAMPLES[wildcards.sample][key]


def cell_types_column(wildcards):
    source = SAMPLES[wildcards.sample]["cell_types"] or ""
    return source.removeprefix("column:") if source.startswith("column:") else None


rule ingest:
    input:
        unpack(section_files),
        code=lib("job", "store", "cosmx", "blocks", "qc"),
    output:
        cells=f"{RUN}/{{arm}}cells/{{sample}}.h5ad",
        qc=f"{RUN}/{{arm}}cells/{{sample}}.qc.tsv",
        figure=report(
            f"{RUN}/{{arm}}cells/{{sample}}.qc.svg", caption="../report/qc.rst", category="Cells"
        ),
    params:
        sample="{sample}",
        samples=list(SAMPLES),
        format=section("format"),
        donor=section("donor"),
        pixel_size_um=section("pixel_size_um"),
        cell_types_column=cell_types_column,
        shards=section("shards"),
        cells=lambda wildcards: {
            key: value for key, value in setting("cells")(wildcards).items() if key != "genes"
        },
        seed=config["seed"],
    log:
        f"{RUN}/{{arm}}logs/ingest/{{sample}}.log",
    benchmark:
        f"{RUN}/{{arm}}benchmarks/ingest/{{sample}}.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000, 8),
        runtime=minutes(15, 10),
    conda:
        "../../envs/data.yaml"
    script:
        "../../scripts/ingest.py"

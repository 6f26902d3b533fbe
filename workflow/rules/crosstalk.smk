"""Spatial crosstalk: one job a section, then all sections together."""

CROSSTALK_TABLES = (
    "edges",
    "pairs",
    "channels",
    "contrasts",
    "importance",
    "decay",
    "nulls",
    "concepts",
    "cells",
)
CROSSTALK_SECTION = {
    **{name: f"{RUN}/crosstalk/{{sample}}/{name}.parquet" for name in CROSSTALK_TABLES},
    "network": f"{RUN}/crosstalk/{{sample}}/graph.graphml",
    "graph": f"{RUN}/crosstalk/{{sample}}/graph.h5ad",
    "summary": f"{RUN}/crosstalk/{{sample}}/summary.json",
}
CROSSTALK_ALL = {
    "pairs": f"{RUN}/crosstalk/pairs.parquet",
    "contrasts": f"{RUN}/crosstalk/contrasts.parquet",
    "summary": f"{RUN}/crosstalk/summary.json",
}
# Tables of a section that the report shows, in this order.
CROSSTALK_SHOWN = ("edges", "channels", "importance", "decay", "nulls", "cells")
PAIR_RECOVERY_NAMES = {"pairs": "pairs.tsv", "summary": "pair_summary.json"}
PAIR_RECOVERY_FILES = {
    role: f"{RUN}/recovery/{name}" for role, name in PAIR_RECOVERY_NAMES.items() if SIMULATED_RUN
}


rule crosstalk_section:
    input:
        unpack(crosstalk_graph),
        activity=f"{RUN}/activity/{{sample}}.h5ad",
        regions=f"{RUN}/regions/{{sample}}.parquet",
        dag=f"{RUN}/concepts/dag.parquet",
        channels=ARMS[""]["activity"]["channels"],
        contrasts=ARMS[""]["crosstalk"]["contrasts"],
        code=lib("job", "store", "crosstalk", "activity.channels"),
    output:
        **CROSSTALK_SECTION,
    log:
        f"{RUN}/logs/crosstalk_section/{{sample}}.log",
    benchmark:
        f"{RUN}/benchmarks/crosstalk_section/{{sample}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 20),
        runtime=minutes(60),
    params:
        crosstalk=crosstalk_settings,
        seed=config["seed"],
    script:
        "../../scripts/crosstalk.py"


rule combine_crosstalk:
    input:
        pairs=expand(CROSSTALK_SECTION["pairs"], sample=SAMPLES),
        contrasts=expand(CROSSTALK_SECTION["contrasts"], sample=SAMPLES),
        summaries=expand(CROSSTALK_SECTION["summary"], sample=SAMPLES),
        code=lib("job", "store", "crosstalk", "tis.units"),
    output:
        **CROSSTALK_ALL,
    log:
        f"{RUN}/logs/combine_crosstalk.log",
    benchmark:
        f"{RUN}/benchmarks/combine_crosstalk.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 20),
        runtime=minutes(20),
    params:
        max_q=ARMS[""]["crosstalk"]["max_q"],
    script:
        "../../scripts/combine_crosstalk.py"


if SIMULATED_RUN:

    rule recover_pairs:
        input:
            unpack(crosstalk_graphs),
            truth_cells=f"{RUN}/truth/cells.parquet",
            planted=f"{RUN}/truth/pairs.parquet",
            pairs=CROSSTALK_ALL["pairs"],
            activity=ACTIVITY_CELLS,
            regions=REGION_CELLS,
            code=lib("job", "store", "crosstalk", "tis.units", "pair_recovery"),
        output:
            **shown(PAIR_RECOVERY_FILES, "Recovery of what was planted", pairs="pairs"),
        log:
            f"{RUN}/logs/recover_pairs.log",
        benchmark:
            f"{RUN}/benchmarks/recover_pairs.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 20),
            runtime=minutes(20),
        params:
            crosstalk=crosstalk_settings,
            seed=config["seed"],
        script:
            "../../scripts/recover_pairs.py"

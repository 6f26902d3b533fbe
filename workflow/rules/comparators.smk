"""Other systems on the same cells, each with an environment of its own; of target extras, never of all."""

COMPARED = config["comparators"]["names"]
COMPARATORS = f"{RUN}/comparators"
TALKING = [name for name in ("squidpy", "liana") if name in COMPARED]
CONCORDANCE = {
    "table": f"{COMPARATORS}/concordance.parquet",
    "shares": f"{COMPARATORS}/concordance.tsv",
    "summary": f"{COMPARATORS}/concordance.json",
}
SYSTEMS = f"{COMPARATORS}/systems.tsv"
SYSTEM_SUMMARIES = [
    *(f"{COMPARATORS}/{name}/summary.json" for name in TALKING),
    *([CONCORDANCE["summary"]] if TALKING else []),
]
COMPARATOR_FILES = [SYSTEMS, *(CONCORDANCE.values() if TALKING else [])] if COMPARED else []


rule list_interactions:
    input:
        unpack(interactions_file),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "comparators.liana_plus", "tis.units"),
    output:
        table=f"{COMPARATORS}/interactions.parquet",
        summary=f"{COMPARATORS}/interactions.json",
    log:
        f"{RUN}/logs/list_interactions.log",
    benchmark:
        f"{RUN}/benchmarks/list_interactions.tsv"
    conda:
        "../../envs/communication.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 8),
        runtime=minutes(20),
    params:
        interactions=config["comparators"]["communication"]["interactions"],
        resource=config["comparators"]["communication"]["resource"],
        # A package that was missing may be there once an environment is named.
        environment=own_environment("communication"),
    script:
        "../../scripts/list_interactions.py"


rule compare_squidpy:
    input:
        interactions=rules.list_interactions.output.table,
        listed=rules.list_interactions.output.summary,
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        activity=ACTIVITY_CELLS,
        regions=REGION_CELLS,
        code=lib("job", "store", "comparators.liana_plus", "comparators.ligrec"),
    output:
        table=f"{COMPARATORS}/squidpy/interactions.parquet",
        summary=f"{COMPARATORS}/squidpy/summary.json",
    log:
        f"{RUN}/logs/compare_squidpy.log",
    benchmark:
        f"{RUN}/benchmarks/compare_squidpy.tsv"
    conda:
        "../../envs/communication.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3500, 60),
        runtime=minutes(60),
    params:
        system="squidpy",
        communication=communication_settings(),
        compartments=ARMS[""]["crosstalk"]["compartments"],
        seed=config["seed"],
        environment=own_environment("communication"),
    script:
        "../../scripts/compare_communication.py"


use rule compare_squidpy as compare_liana with:
    output:
        table=f"{COMPARATORS}/liana/interactions.parquet",
        summary=f"{COMPARATORS}/liana/summary.json",
    log:
        f"{RUN}/logs/compare_liana.log",
    benchmark:
        f"{RUN}/benchmarks/compare_liana.tsv"
    params:
        system="liana",
        communication=communication_settings(),
        compartments=ARMS[""]["crosstalk"]["compartments"],
        seed=config["seed"],
        environment=own_environment("communication"),


rule concordance:
    input:
        found=[f"{COMPARATORS}/{name}/interactions.parquet" for name in TALKING],
        pairs=CROSSTALK_ALL["pairs"],
        concepts=ACTIVITY_TABLES["concepts"],
        terms=f"{RUN}/concepts/terms.parquet",
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        code=lib("job", "store", "comparators.concordance", "tis.units"),
    output:
        **CONCORDANCE,
    log:
        f"{RUN}/logs/concordance.log",
    benchmark:
        f"{RUN}/benchmarks/concordance.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 20),
        runtime=minutes(20),
    params:
        max_q=ARMS[""]["crosstalk"]["max_q"],
        system_max_q=config["comparators"]["communication"]["max_q"],
    script:
        "../../scripts/concordance.py"


rule list_systems:
    input:
        summaries=SYSTEM_SUMMARIES,
        code=lib("job", "store", "comparators.status", "tis.units"),
    output:
        systems=SYSTEMS,
    log:
        f"{RUN}/logs/list_systems.log",
    benchmark:
        f"{RUN}/benchmarks/list_systems.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(500),
        runtime=minutes(5),
    script:
        "../../scripts/list_systems.py"

"""TIS of units beside their controls, and the microenvironments called from them."""

TIS_FOLDER = f"{RUN}/tis/{{units}}/layer_{{layer}}"
TIS_TABLES = {"units": "units.parquet", "null": "null.parquet", "summary": "summary.json"}
SCORED_UNITS = scored_units()
TIS_FILES = [
    f"{RUN}/tis/{units}/layer_{layer}/{file}" for units, layer in SCORED_UNITS for file in TIS_TABLES.values()
]
REGION_UNITS, REGION_LAYER = config["regions"]["units"], spaces.regions_layer(ARMS[""])
REGION_TABLE = f"{RUN}/tis/{REGION_UNITS}/layer_{REGION_LAYER}/units.parquet"
REGION_NAMES = ("units", "enrichment", "interface", "agreement", "confusion", "composition", "profiles")
REGION_FILES = {
    **{name: f"{RUN}/regions/{name}.parquet" for name in REGION_NAMES},
    "summary": f"{RUN}/regions/summary.json",
}
REGION_CELLS = [f"{RUN}/regions/{sample}.parquet" for sample in SAMPLES]
UNIT_RECOVERY_NAMES = {
    "programs": "unit_programs.tsv",
    "claims": "unit_claims.tsv",
    "summary": "unit_summary.json",
}
UNIT_RECOVERY_FILES = {
    role: f"{RUN}/recovery/{name}" for role, name in UNIT_RECOVERY_NAMES.items() if SIMULATED_RUN
}


# A dictionary of <cls> has one code a cell; rule aggregate is for those of gene tokens.
rule encode_cls:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        activations=lambda wildcards: activation_files("", [int(wildcards.layer)]),
        cfg=f"{RUN}/dictionaries/{{dictionary}}/layer_{{layer}}/cfg.json",
        weights=f"{RUN}/dictionaries/{{dictionary}}/layer_{{layer}}/sae_weights.safetensors",
        code=lib("job", "store", "features"),
    output:
        cells=f"{RUN}/features/{{dictionary}}/layer_{{layer}}/cls.zarr.zip",
    log:
        f"{RUN}/logs/encode_cls/{{dictionary}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/encode_cls/{{dictionary}}_{{layer}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3000, 12),
        runtime=minutes(30, 0.5),
    params:
        representation="{dictionary}",
        layer=lambda wildcards: int(wildcards.layer),
    script:
        "../../scripts/encode_cls.py"


rule score_units:
    input:
        unpack(tis_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "tis"),
    output:
        **{role: f"{TIS_FOLDER}/{file}" for role, file in TIS_TABLES.items()},
    log:
        f"{RUN}/logs/score_units/{{units}}_{{layer}}.log",
    benchmark:
        f"{RUN}/benchmarks/score_units/{{units}}_{{layer}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 60),
        runtime=minutes(60),
    params:
        tis=tis_settings,
        name="{units}",
        layer=lambda wildcards: int(wildcards.layer),
        same_weights=same_weights,
        seed=config["seed"],
    script:
        "../../scripts/score_units.py"


rule call_regions:
    input:
        units=unit_files(REGION_UNITS, REGION_LAYER),
        table=REGION_TABLE,
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "regions"),
    output:
        **REGION_FILES,
        regions=REGION_CELLS,
    log:
        f"{RUN}/logs/call_regions.log",
    benchmark:
        f"{RUN}/benchmarks/call_regions.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 60),
        runtime=minutes(60),
    params:
        regions={
            key: ARMS[""]["regions"][key] for key in ARMS[""]["regions"] if key not in ("units", "layer")
        },
        space=spaces.unit_settings(ARMS[""], REGION_UNITS),
        layer=REGION_LAYER,
        seed=config["seed"],
    script:
        "../../scripts/call_regions.py"


if SIMULATED_RUN:

    rule recover_units:
        input:
            truth_cells=f"{RUN}/truth/cells.parquet",
            truth_programs=f"{RUN}/truth/programs.parquet",
            units=unit_files(REGION_UNITS, REGION_LAYER),
            table=REGION_TABLE,
            tis_summary=f"{RUN}/tis/{REGION_UNITS}/layer_{REGION_LAYER}/summary.json",
            interface=REGION_FILES["interface"],
            agreement=REGION_FILES["agreement"],
            cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
            code=lib("job", "store", "tis", "unit_recovery"),
        output:
            **shown(
                UNIT_RECOVERY_FILES,
                "Recovery of what was planted",
                programs="unit_programs",
                claims="unit_claims",
            ),
        log:
            f"{RUN}/logs/recover_units.log",
        benchmark:
            f"{RUN}/benchmarks/recover_units.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 8),
            runtime=minutes(20),
        params:
            space=spaces.unit_settings(ARMS[""], REGION_UNITS),
            layer=REGION_LAYER,
            max_q=ARMS[""]["regions"]["max_q"],
        script:
            "../../scripts/recover_units.py"

"""Other systems on the same cells, each with an environment of its own; of target extras, never of all."""

COMPARED = config["comparators"]["names"]
COMPARATORS = f"{RUN}/comparators"
TALKING = [name for name in ("squidpy", "liana") if name in COMPARED]
CONCORDANCE = {
    "table": f"{COMPARATORS}/concordance.parquet",
    "shares": f"{COMPARATORS}/concordance.tsv",
    "summary": f"{COMPARATORS}/concordance.json",
}
LATENT = f"{COMPARATORS}/{{latent}}"
LATENT_REGIONS = {name: f"{LATENT}/regions/{Path(path).name}" for name, path in REGION_FILES.items()}
MOFA = {name: f"{COMPARATORS}/mofa/{name}.parquet" for name in ("variance", "prediction", "weights")}
SYSTEMS = f"{COMPARATORS}/systems.tsv"
# Cells of the simulated tissue's types, where the configuration asks for them and the tissue is simulated.
SIMULATED_REFERENCE = (
    f"{RUN}/simulated/reference.h5ad"
    if SIMULATED_RUN and config["comparators"]["tangram"]["reference"] == steering_settings.SIMULATED
    else None
)
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


# Whether there is a latent to score is known once its rule has looked for its package.
checkpoint fit_scvi:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "comparators.scvi_latent"),
    output:
        latent=f"{COMPARATORS}/scvi/latent.h5ad",
        summary=f"{COMPARATORS}/scvi/summary.json",
    log:
        f"{RUN}/logs/fit_scvi.log",
    benchmark:
        f"{RUN}/benchmarks/fit_scvi.tsv"
    conda:
        "../../envs/scvi.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(3500, 60),
        runtime=minutes(120),
    params:
        scvi=ARMS[""]["comparators"]["scvi"],
        seed=config["seed"],
        environment=own_environment("scvi"),
    script:
        "../../scripts/fit_scvi.py"


use rule score_units as score_latent with:
    input:
        units=f"{LATENT}/latent.h5ad",
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "tis"),
    output:
        **{role: f"{LATENT}/tis/{file}" for role, file in TIS_TABLES.items()},
    log:
        f"{RUN}/logs/score_latent/{{latent}}.log",
    benchmark:
        f"{RUN}/benchmarks/score_latent/{{latent}}.tsv"
    params:
        tis=lambda wildcards: {
            **{key: ARMS[""]["tis"][key] for key in ARMS[""]["tis"] if key != "units"},
            "space": latent_space(wildcards),
        },
        name="{latent}",
        layer=0,
        same_weights=False,
        seed=config["seed"],


use rule call_regions as call_latent_regions with:
    input:
        units=f"{LATENT}/latent.h5ad",
        table=f"{LATENT}/tis/{TIS_TABLES['units']}",
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "regions"),
    output:
        **LATENT_REGIONS,
        regions=[f"{LATENT}/regions/{sample}.parquet" for sample in SAMPLES],
    log:
        f"{RUN}/logs/call_latent_regions/{{latent}}.log",
    benchmark:
        f"{RUN}/benchmarks/call_latent_regions/{{latent}}.tsv"
    params:
        regions={
            key: ARMS[""]["regions"][key] for key in ARMS[""]["regions"] if key not in ("units", "layer")
        },
        space=latent_space,
        layer=0,
        seed=config["seed"],


rule compare_spaces:
    input:
        tis=[f"{LATENT}/tis/{TIS_TABLES['summary']}"]
        + [f"{RUN}/tis/{units}/layer_{layer}/{TIS_TABLES['summary']}" for units, layer in SCORED_UNITS],
        agreement=[LATENT_REGIONS["agreement"], REGION_FILES["agreement"]],
        code=lib("job", "store", "comparators.representations", "comparators.status", "tis.units"),
    output:
        table=f"{LATENT}/scored.tsv",
        summary=f"{LATENT}/scored.json",
    log:
        f"{RUN}/logs/compare_spaces/{{latent}}.log",
    benchmark:
        f"{RUN}/benchmarks/compare_spaces/{{latent}}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(500),
        runtime=minutes(10),
    params:
        system="{latent}",
        called_layers=[0, REGION_LAYER],
        called=lambda wildcards: [wildcards.latent, REGION_UNITS],
    script:
        "../../scripts/compare_spaces.py"


rule ligand_activity:
    input:
        unpack(ligand_target_matrix),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        graphs=expand(CROSSTALK_SECTION["graph"], sample=SAMPLES),
        code=lib("job", "store", "comparators.nichenet", "tis.judges", "tis.units"),
    output:
        table=f"{COMPARATORS}/nichenet/ligands.parquet",
        summary=f"{COMPARATORS}/nichenet/summary.json",
    log:
        f"{RUN}/logs/ligand_activity.log",
    benchmark:
        f"{RUN}/benchmarks/ligand_activity.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 100),
        runtime=minutes(60),
    params:
        matrix=config["comparators"]["nichenet"]["matrix"],
        nichenet=nichenet_settings(),
        seed=config["seed"],
    script:
        "../../scripts/ligand_activity.py"


if SIMULATED_REFERENCE:

    rule simulate_reference:
        input:
            **{role: f"{DEMO_ONTOLOGY}/{file}" for role, file in DEMO_FILES.items()},
            code=lib("job", "store", "simulate.reference", "ontology"),
        output:
            reference=SIMULATED_REFERENCE,
        log:
            f"{RUN}/logs/simulate_reference.log",
        benchmark:
            f"{RUN}/benchmarks/simulate_reference.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(10),
        params:
            strength=ARMS[""]["simulate"]["strength"],
            seed=config["seed"],
        script:
            "../../scripts/simulate_reference.py"


rule map_reference:
    input:
        unpack(tangram_reference),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        regions=REGION_CELLS,
        code=lib("job", "store", "comparators.communication", "comparators.tangram_map"),
    output:
        clusters=f"{COMPARATORS}/tangram/clusters.parquet",
        genes=f"{COMPARATORS}/tangram/genes.parquet",
        summary=f"{COMPARATORS}/tangram/summary.json",
    log:
        f"{RUN}/logs/map_reference.log",
    benchmark:
        f"{RUN}/benchmarks/map_reference.tsv"
    conda:
        "../../envs/tangram.yaml"
    threads: 1
    resources:
        mem_mb=memory(3500, 100),
        runtime=minutes(120),
    params:
        reference=config["comparators"]["tangram"]["reference"],
        tangram=tangram_settings(),
        compartments=ARMS[""]["crosstalk"]["compartments"],
        seed=config["seed"],
        environment=own_environment("tangram"),
    script:
        "../../scripts/map_reference.py"


# Whether there are factors to score is known once its rule has looked for its package and views.
checkpoint fit_mofa:
    input:
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        activity=ACTIVITY_CELLS,
        code=lib("job", "store", "comparators.mofa"),
    output:
        **MOFA,
        latent=f"{COMPARATORS}/mofa/latent.h5ad",
        summary=f"{COMPARATORS}/mofa/summary.json",
    log:
        f"{RUN}/logs/fit_mofa.log",
    benchmark:
        f"{RUN}/benchmarks/fit_mofa.tsv"
    conda:
        "../../envs/mofa.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 60),
        runtime=minutes(120),
    params:
        mofa=ARMS[""]["comparators"]["mofa"],
        seed=config["seed"],
        environment=own_environment("mofa"),
    script:
        "../../scripts/fit_mofa.py"


checkpoint fit_totalvi:
    input:
        unpack(second_modality("totalvi")),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "comparators.multimodal"),
    output:
        latent=f"{COMPARATORS}/totalvi/latent.h5ad",
        summary=f"{COMPARATORS}/totalvi/summary.json",
    log:
        f"{RUN}/logs/fit_totalvi.log",
    benchmark:
        f"{RUN}/benchmarks/fit_totalvi.tsv"
    conda:
        "../../envs/scvi.yaml"
    threads: 1
    resources:
        mem_mb=memory(3500, 60),
        runtime=minutes(120),
    params:
        system="totalvi",
        path=config["comparators"]["totalvi"][MODALITY_KEYS["totalvi"]],
        settings=multimodal_settings("totalvi"),
        seed=config["seed"],
        environment=own_environment("scvi"),
    script:
        "../../scripts/fit_multimodal.py"


checkpoint fit_multivi:
    input:
        unpack(second_modality("multivi")),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        code=lib("job", "store", "comparators.multimodal"),
    output:
        latent=f"{COMPARATORS}/multivi/latent.h5ad",
        summary=f"{COMPARATORS}/multivi/summary.json",
    log:
        f"{RUN}/logs/fit_multivi.log",
    benchmark:
        f"{RUN}/benchmarks/fit_multivi.tsv"
    conda:
        "../../envs/scvi.yaml"
    threads: 1
    resources:
        mem_mb=memory(3500, 60),
        runtime=minutes(120),
    params:
        system="multivi",
        path=config["comparators"]["multivi"][MODALITY_KEYS["multivi"]],
        settings=multimodal_settings("multivi"),
        seed=config["seed"],
        environment=own_environment("scvi"),
    script:
        "../../scripts/fit_multimodal.py"


rule list_systems:
    input:
        summaries=system_summaries,
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

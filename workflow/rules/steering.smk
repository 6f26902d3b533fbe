"""The model steered along concepts: judged by perturbation data, and towards concepts where there is none."""

STEERED_LAYER = steering_settings.layer(ARMS[""])
SCREEN_FILES = screen_files()
SCREEN_TRUTH = {
    "cells": f"{RUN}/truth/screen_cells.parquet",
    "targets": f"{RUN}/truth/screen_targets.parquet",
}
PREPARED_SCREEN = {
    "screen": f"{RUN}/steering/screen.h5ad",
    "targets": f"{RUN}/steering/targets.parquet",
}
STEERING_NAMES = ("effects", "doses", "genes", "ablation", "activity", "expression", "cells")
STEERING_FILES = (
    {
        **{name: f"{RUN}/steering/{name}.parquet" for name in STEERING_NAMES},
        "map": f"{RUN}/steering/map.parquet",
        "summary": f"{RUN}/steering/summary.json",
    }
    if SCREEN_FILES
    else {}
)
TOWARDS_FILES = (
    {
        "concepts": f"{RUN}/steering/concepts.parquet",
        "concepts_summary": f"{RUN}/steering/concepts.json",
    }
    if STEERED_LAYER is not None
    else {}
)
SIMULATED_SCREEN = steering_settings.data(ARMS[""]) == steering_settings.SIMULATED
STEERING_RECOVERY = (
    {
        "regulators": f"{RUN}/recovery/steering_regulators.tsv",
        "claims": f"{RUN}/recovery/steering_claims.tsv",
    }
    if SIMULATED_SCREEN
    else {}
)


if SIMULATED_SCREEN:

    rule simulate_screen:
        input:
            **{role: f"{DEMO_ONTOLOGY}/{file}" for role, file in DEMO_FILES.items()},
            code=lib("job", "store", "simulate.perturb", "ontology"),
        output:
            **SCREEN_TRUTH,
            screen=SCREEN_FILES[0],
        log:
            f"{RUN}/logs/simulate_screen.log",
        benchmark:
            f"{RUN}/benchmarks/simulate_screen.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(10),
        params:
            screen=ARMS[""]["steering"]["screen"],
            strength=ARMS[""]["simulate"]["strength"],
            seed=config["seed"],
        script:
            "../../scripts/simulate_screen.py"


if SCREEN_FILES:

    rule prepare_screen:
        input:
            **steering_ontology(),
            screen=SCREEN_FILES,
            terms=f"{RUN}/concepts/terms.parquet",
            genes=f"{RUN}/concepts/genes.tsv",
            evidence=f"{RUN}/concepts/evidence.parquet",
            code=lib("job", "store", "ontology", "steering.reading", "steering.directions"),
        output:
            **PREPARED_SCREEN,
        log:
            f"{RUN}/logs/prepare_screen.log",
        benchmark:
            f"{RUN}/benchmarks/prepare_screen.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 20),
            runtime=minutes(20),
        params:
            steering=steering_params("column", "control", "min_cells", tokens=()),
            own=steering_settings.data(ARMS[""]) == steering_settings.CELLS,
            min_genes=ARMS[""]["cells"]["min_genes"],
            ontology=annotation_settings(),
            seed=config["seed"],
        script:
            "../../scripts/prepare_screen.py"

    rule steer:
        input:
            unpack(steering_inputs),
            **PREPARED_SCREEN,
            cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
            activations=activation_files("", [STEERED_LAYER]),
            code=lib("job", "store", "features", "sae.format", "probes", "steering.analysis"),
        output:
            **{role: path for role, path in STEERING_FILES.items() if role != "map"},
        log:
            f"{RUN}/logs/steer.log",
        benchmark:
            f"{RUN}/benchmarks/steer.tsv"
        conda:
            "../../envs/model.yaml"
        threads: 2
        resources:
            mem_mb=memory_of_cells(4000, 20),
            runtime=minutes(120),
        params:
            steering=steering_params(
                *("direction", "position", "doses", "dose_by", "cells", "random"),
                *("classifier_seeds", "top_genes", "bootstrap", "max_q"),
            ),
            layer=STEERED_LAYER,
            seed=config["seed"],
        script:
            "../../scripts/steer.py"

    rule map_steered:
        input:
            cells=STEERING_FILES["cells"],
            code=lib("job", "store", "steering.mapping"),
        output:
            map=STEERING_FILES["map"],
        log:
            f"{RUN}/logs/map_steered.log",
        benchmark:
            f"{RUN}/benchmarks/map_steered.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=minutes(20),
        params:
            seed=config["seed"],
        script:
            "../../scripts/map_steered.py"


if STEERED_LAYER is not None:

    rule steer_towards:
        input:
            args=f"{RUN}/model/args.json",
            vocab=f"{RUN}/model/vocab.json",
            weights=f"{RUN}/model/best_model.pt",
            probes=probe_files("document", layers=[STEERED_LAYER]),
            probe_weights=probe_files("weights", layers=[STEERED_LAYER]),
            cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
            membership=f"{RUN}/concepts/membership.npz",
            genes=f"{RUN}/concepts/genes.tsv",
            terms=f"{RUN}/concepts/terms.parquet",
            code=lib("job", "store", "features", "alignment", "probes", "tis.units", "steering.towards"),
        output:
            **TOWARDS_FILES,
        log:
            f"{RUN}/logs/steer_towards.log",
        benchmark:
            f"{RUN}/benchmarks/steer_towards.tsv"
        conda:
            "../../envs/model.yaml"
        threads: 2
        resources:
            mem_mb=memory_of_cells(3000, 20),
            runtime=minutes(60),
        params:
            steering=steering_params("direction", "random", "concepts", "bootstrap"),
            seed=config["seed"],
        script:
            "../../scripts/steer_towards.py"


if SIMULATED_SCREEN:

    rule recover_steering:
        input:
            **{name: STEERING_FILES[name] for name in ("effects", "genes", "ablation", "expression")},
            truth_cells=SCREEN_TRUTH["cells"],
            truth_targets=SCREEN_TRUTH["targets"],
            truth_genes=f"{RUN}/truth/program_genes.parquet",
            code=lib("job", "store", "steering_recovery"),
        output:
            **shown(
                STEERING_RECOVERY,
                "Recovery of what was planted",
                regulators="steering_regulators",
                claims="steering_claims",
            ),
        log:
            f"{RUN}/logs/recover_steering.log",
        benchmark:
            f"{RUN}/benchmarks/recover_steering.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(10),
        script:
            "../../scripts/recover_steering.py"

"""Recovery of planted programs (evaluation: the only reader of truth/), and the report."""

RECOVERY_NAMES = {
    "programs": "programs.parquet",
    "comparisons": "comparisons.tsv",
    "summary": "summary.json",
}
RECOVERY_FILES = [f"{RUN}/recovery/{name}" for name in RECOVERY_NAMES.values()] if SIMULATED_RUN else []
STRENGTH_ARMS = {name: ARMS[name]["simulate"]["strength"] for name in EXTRA_ARMS if "simulated" in OWN[name]}
# What extras.html shows.
EXTRA_TABLES = [
    *([f"{RUN}/recovery/curve.tsv"] if STRENGTH_ARMS else []),
    *([f"{RUN}/frontier.tsv"] if FRONTIER else []),
    *STABILITY,
    *MODELS_TABLE,
    *GENE_TEXT_FILES,
    *COMPARATOR_FILES,
]
EXTRA_TARGETS = [
    *(
        path
        for name in EXTRA_ARMS
        for path in layered("alignment/{dictionary}/layer_{layer}/summary.json", name)
    ),
    *EXTRA_TABLES,
    *([f"{RUN}/extras.html"] if EXTRA_TABLES else []),
]


if SIMULATED_RUN:

    rule recover:
        input:
            **{f"arm_{name}": headline("concepts.parquet", name) for name in CONTROL_ARMS},
            truth_programs=f"{RUN}/truth/programs.parquet",
            terms=f"{RUN}/concepts/terms.parquet",
            main=headline("concepts.parquet"),
            main_summary=headline("summary.json"),
            neurons=headline("concepts.parquet", dictionary=NEURONS),
            baselines=aligned_baselines("concepts.parquet"),
            choice=f"{RUN}/alignment/chosen_layer.json",
            code=lib("job", "store", "recovery", "stats", "headline"),
        output:
            **shown(
                {role: f"{RUN}/recovery/{name}" for role, name in RECOVERY_NAMES.items()},
                "Recovery of what was planted",
                comparisons="comparisons",
            ),
        log:
            f"{RUN}/logs/recover.log",
        benchmark:
            f"{RUN}/benchmarks/recover.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(10),
        params:
            layers=representation_layers("", HEADLINE),
            arms={name: representation_layers(name, HEADLINE) for name in CONTROL_ARMS},
            baselines=USED_BASELINES,
            seed=config["seed"],
        script:
            "../../scripts/recover.py"


if STRENGTH_ARMS:

    rule recovery_curve:
        input:
            truth_programs=[
                f"{arm_folder(name, 'simulated')}/truth/programs.parquet" for _, _, name in strength_points()
            ],
            terms=f"{RUN}/concepts/terms.parquet",
            concepts=[
                path
                for name in dict.fromkeys(n for _, _, n in strength_points())
                for path in headline("concepts.parquet", name)
            ],
            summaries=[
                path
                for name in dict.fromkeys(n for _, _, n in strength_points())
                for path in headline("summary.json", name)
            ],
            code=lib("job", "store", "recovery", "stats"),
        output:
            curve=f"{RUN}/recovery/curve.tsv",
        log:
            f"{RUN}/logs/recovery_curve.log",
        benchmark:
            f"{RUN}/benchmarks/recovery_curve.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(10),
        params:
            strengths=[strength for strength, _, _ in strength_points()],
            layers=[layer for _, layer, _ in strength_points()],
            seed=config["seed"],
        script:
            "../../scripts/recovery_curve.py"


# What target all makes; the record of provenance waits for it and comes last.
ALL_FILES = [f"{RUN}/report.html", *([ATLAS] if ATLAS_SPACES else [])]
REPORT_INDEX = report_index()


REPORT_INPUT = {
    "tables": [
        path
        for entry in REPORT_INDEX
        for key, path in entry.items()
        if key not in ("arm", "representation", "layer")
    ],
    "qc": expand(f"{RUN}/cells/{{sample}}.qc.tsv", sample=SAMPLES),
    "qc_figures": expand(f"{RUN}/cells/{{sample}}.qc.svg", sample=SAMPLES),
    "query": f"{RUN}/concepts/query.json",
    "terms": f"{RUN}/concepts/terms.parquet",
    "model_metrics": f"{RUN}/model/metrics.json" if MODEL_IS_RUN else [],
    "model_training": f"{RUN}/model/training.parquet" if MODEL_IS_RUN else [],
    "recovery": RECOVERY_FILES,
    "headline": f"{RUN}/alignment/headline.tsv",
    "models": CONTROL_MODELS_TABLE,
    "reading": reading_files,
    "absorption": ABSORPTION,
    "stability": stability_files([""]),
    "tis": TIS_FILES,
    "regions": list(REGION_FILES.values()),
    "tissue": REGION_CELLS,
    "unit_recovery": list(UNIT_RECOVERY_FILES.values()),
    "activity": list(ACTIVITY_TABLES.values()),
    "crosstalk": list(CROSSTALK_ALL.values()),
    "crosstalk_sections": [
        CROSSTALK_SECTION[name].format(sample=sample) for sample in SAMPLES for name in CROSSTALK_SHOWN
    ],
    "pair_recovery": list(PAIR_RECOVERY_FILES.values()),
    "probes": [
        path for entry in probe_index() for key, path in entry.items() if key in ("summary", "metrics")
    ],
    "cosines": COSINES,
    "sparse": sparse_files,
    "steering": list(STEERING_FILES.values()),
    "towards": list(TOWARDS_FILES.values()),
    "steering_recovery": list(STEERING_RECOVERY.values()),
    "evidence": list(EVIDENCE_FILES.values()),
    "code": lib("job", "store", "report"),
}
REPORT_PARAMS = {
    "run": config["run"],
    # Where the atlas stands, seen from the report.
    "atlas": "atlas/index.html" if ATLAS_SPACES else "",
    # Where and how a run happens is no part of its results.
    "config": {
        key: value
        for key, value in ARMS[""].items()
        if key not in ("environments", "fetch", "extras", "annotate", "gene_text", "comparators")
    },
    "samples": list(SAMPLES),
    "index": REPORT_INDEX,
    "layers": representation_layers("", HEADLINE),
    "has_graph": config["ontology"]["source"] == "obo_gaf",
    "simulated": SIMULATED_RUN,
    "reading": list(READING_FILES),
    "tis": SCORED_UNITS,
    "regions": list(REGION_FILES),
    "activity": list(ACTIVITY_TABLES),
    "crosstalk": list(CROSSTALK_ALL),
    "probes": probe_index(),
    "steering": list(STEERING_FILES),
    "towards": list(TOWARDS_FILES),
    "steering_recovery": list(STEERING_RECOVERY),
    "evidence": list(EVIDENCE_FILES),
}


rule write_report:
    input:
        **REPORT_INPUT,
    output:
        report=report(
            f"{RUN}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"shows": "all of it"},
        ),
        figures=report(
            directory(f"{RUN}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Report",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RUN}/logs/write_report.log",
    benchmark:
        f"{RUN}/benchmarks/write_report.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        **REPORT_PARAMS,
    script:
        "../../scripts/write_report.py"


if EXTRA_TABLES:

    rule write_extras_report:
        input:
            **{
                **REPORT_INPUT,
                "curve": f"{RUN}/recovery/curve.tsv" if STRENGTH_ARMS else [],
                "stability": STABILITY,
                "frontier": f"{RUN}/frontier.tsv" if FRONTIER else [],
                "models": MODELS_TABLE,
                "gene_text": GENE_TEXT_FILES,
                "systems": SYSTEMS if COMPARED else [],
                "mofa": [MOFA["variance"], MOFA["prediction"]] if "mofa" in COMPARED else [],
            },
        output:
            report=f"{RUN}/extras.html",
            figures=directory(f"{RUN}/extras_figures"),
        log:
            f"{RUN}/logs/write_extras_report.log",
        benchmark:
            f"{RUN}/benchmarks/write_extras_report.tsv"
        conda:
            "../../envs/report.yaml"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=minutes(10),
        params:
            **REPORT_PARAMS,
            gene_text=ARMS[""]["gene_text"],
            gene_text_index=GENE_TEXT_INDEX,
        script:
            "../../scripts/write_report.py"

"""The feature atlas: a static site with a page for every feature of the main arm's dictionaries."""

ATLAS = f"{RUN}/atlas"
ATLAS_SPACES = atlas_spaces() if config["atlas"]["enabled"] else []


if ATLAS_SPACES:

    rule write_atlas:
        input:
            tables=[
                path
                for space in ATLAS_SPACES
                for role, path in space.items()
                if role not in ("dictionary", "layer", "clamped", "aggregates") and path
            ],
            aggregates=[space["aggregates"] for space in ATLAS_SPACES],
            configurations=layered(
                "dictionaries/{dictionary}/layer_{layer}/cfg.json", dictionaries=gene_dictionaries("")
            ),
            cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
            regions=REGION_CELLS,
            terms=f"{RUN}/concepts/terms.parquet",
            steering=atlas_steering(),
            code=lib("job", "store", "atlas"),
        output:
            atlas=directory(ATLAS),
        log:
            f"{RUN}/logs/write_atlas.log",
        benchmark:
            f"{RUN}/benchmarks/write_atlas.tsv"
        conda:
            "../../envs/model.yaml"
        threads: 1
        resources:
            mem_mb=memory_of_cells(3000, 30),
            runtime=minutes(30, 20),
        params:
            atlas={key: value for key, value in ARMS[""]["atlas"].items() if key != "enabled"},
            run=config["run"],
            spaces=ATLAS_SPACES,
            seed=config["seed"],
        script:
            "../../scripts/write_atlas.py"

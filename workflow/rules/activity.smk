"""How active concepts are in cells, and the channels of all terms."""

ACTIVITY_TABLES = {
    "concepts": f"{RUN}/activity/concepts.parquet",
    "channels": f"{RUN}/activity/channels.parquet",
    "means": f"{RUN}/activity/channel_means.parquet",
    "summary": f"{RUN}/activity/summary.json",
}
ACTIVITY_CELLS = [f"{RUN}/activity/{sample}.h5ad" for sample in SAMPLES]


rule score_activity:
    input:
        unpack(activity_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        terms=f"{RUN}/concepts/terms.parquet",
        dag=f"{RUN}/concepts/dag.parquet",
        channels=ARMS[""]["activity"]["channels"],
        code=lib("job", "store", "activity", "stats"),
    output:
        **ACTIVITY_TABLES,
        activity=ACTIVITY_CELLS,
    log:
        f"{RUN}/logs/score_activity.log",
    benchmark:
        f"{RUN}/benchmarks/score_activity.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_cells(2500, 60),
        runtime=minutes(30),
    params:
        activity={key: value for key, value in ARMS[""]["activity"].items() if key != "channels"},
        dictionary=spaces.crosstalk_dictionary(ARMS[""]),
        seed=config["seed"],
    script:
        "../../scripts/score_activity.py"

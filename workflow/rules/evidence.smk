"""The chain of evidence of the headline dictionary at the chosen layer, beside the same where nothing is."""

EVIDENCE_FILES = {
    "evidence": f"{RUN}/evidence/evidence.tsv",
    "funnel": f"{RUN}/evidence/funnel.tsv",
    "summary": f"{RUN}/evidence/summary.json",
}


rule collect_evidence:
    input:
        unpack(evidence_inputs),
        cells=expand(f"{RUN}/cells/{{sample}}.h5ad", sample=SAMPLES),
        regions=REGION_CELLS,
        membership=f"{RUN}/concepts/membership.npz",
        genes=f"{RUN}/concepts/genes.tsv",
        terms=f"{RUN}/concepts/terms.parquet",
        channels=ACTIVITY_TABLES["channels"],
        activity=ACTIVITY_TABLES["summary"],
        pairs=CROSSTALK_ALL["pairs"],
        steering=TOWARDS_FILES.get("concepts", []),
        code=lib("job", "store", "evidence"),
    output:
        **EVIDENCE_FILES,
    log:
        f"{RUN}/logs/collect_evidence.log",
    benchmark:
        f"{RUN}/benchmarks/collect_evidence.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 20),
        runtime=minutes(30),
    params:
        evidence=ARMS[""]["evidence"],
        alignment=ARMS[""]["alignment"],
        dictionary=HEADLINE,
        layer=lambda wildcards: chosen_layer(),
        seed=config["seed"],
    script:
        "../../scripts/collect_evidence.py"

"""What made the run: versions, machine, configuration, time and memory of each rule, digests of all files."""

PROVENANCE_PARAMS = {
    "config": REPORT_PARAMS["config"],
    # Where and how a run happens reruns nothing; the script looks these keys up.
    "left_out": [key for key in ARMS[""] if key not in REPORT_PARAMS["config"]],
}


rule record_provenance:
    input:
        results=ALL_FILES,
        given=given_files(),
        environment_files=sorted(str(path) for path in Path("envs").glob("*.yaml")),
        code=lib("job", "store", "provenance"),
    output:
        record=f"{RUN}/provenance.json",
    log:
        f"{RUN}/logs/record_provenance.log",
    benchmark:
        f"{RUN}/benchmarks/record_provenance.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(60),
    params:
        **PROVENANCE_PARAMS,
    script:
        "../../scripts/record_provenance.py"


# Written after the report of the extras, of all that is there by then.
use rule record_provenance as record_extras_provenance with:
    input:
        results=EXTRA_TARGETS,
        given=list(
            dict.fromkeys([*given_files(), *given_embeddings(EXTRA_ARMS), *given_texts(), *given_systems()])
        ),
        environment_files=sorted(str(path) for path in Path("envs").glob("*.yaml")),
        code=lib("job", "store", "provenance"),
    output:
        record=f"{RUN}/provenance_extras.json",
    log:
        f"{RUN}/logs/record_extras_provenance.log",
    benchmark:
        f"{RUN}/benchmarks/record_extras_provenance.tsv"

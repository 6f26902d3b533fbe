"""Public data named by the manifest (fetch.enabled): downloaded where Snakemake runs, not by compute nodes."""

DATA_ROOT = Path(config["data_root"])


if of_kind("section"):

    rule fetch_section:
        input:
            code=ancient(lib("job", "fetch")),
        output:
            ensure(
                multiext(
                    str(DATA_ROOT / "{place}/{section}"),
                    *(f"_{file}" for file in downloads.SECTION_FILES),
                ),
                non_empty=True,
            ),
        log:
            f"{RUN}/logs/fetch/{{place}}/{{section}}.log",
        benchmark:
            f"{RUN}/benchmarks/fetch/{{place}}/{{section}}.tsv"
        wildcard_constraints:
            place=choice(item.path for item in of_kind("section")),
            section=choice(item.name for item in of_kind("section")),
        localrule: True
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(500),
            runtime=minutes(240),
        params:
            item=fetched_item,
            work=f"{RUN}/.work/fetch",
        script:
            "../../scripts/fetch.py"


if of_kind("file"):

    rule fetch_file:
        input:
            code=ancient(lib("job", "fetch")),
        output:
            ensure(str(DATA_ROOT / "{place}"), non_empty=True),
        log:
            f"{RUN}/logs/fetch/{{place}}.log",
        benchmark:
            f"{RUN}/benchmarks/fetch/{{place}}.tsv"
        wildcard_constraints:
            place=choice(item.path for item in of_kind("file")),
        localrule: True
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(500),
            runtime=minutes(60),
        params:
            item=fetched_item,
            work=f"{RUN}/.work/fetch",
        script:
            "../../scripts/fetch.py"


if of_kind("by_hand"):

    # Says what a person has to do. What is there already is an update, hence not removed before.
    rule fetch_by_hand:
        input:
            code=ancient(lib("job", "fetch")),
        output:
            [update(str(DATA_ROOT / "{place}" / file)) for file in downloads.CHECKPOINT_FILES],
        log:
            f"{RUN}/logs/fetch/{{place}}.log",
        benchmark:
            f"{RUN}/benchmarks/fetch/{{place}}.tsv"
        wildcard_constraints:
            place=choice(item.path for item in of_kind("by_hand")),
        localrule: True
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=memory(500),
            runtime=minutes(5),
        params:
            item=fetched_item,
            work=f"{RUN}/.work/fetch",
        script:
            "../../scripts/fetch.py"

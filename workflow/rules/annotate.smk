"""A user's own cells through the model and dictionary of the finished run.

The run's files are params and no inputs: nothing of the run may be made, or made anew, for an annotation. Their
digest is a param, too, so that an annotation is made anew after the run.
"""

ANNOTATE_FOLDER = f"{RUN}/annotate"
QUERY, QUERY_FILE = annotate_settings.query_name(ARMS[""]), annotate_settings.query_file(ARMS[""])
ANNOTATED = {
    "cells": f"{ANNOTATE_FOLDER}/{QUERY}.h5ad",
    "report": f"{ANNOTATE_FOLDER}/{QUERY}.html",
}


if QUERY_FILE:

    rule annotate_features:
        input:
            cells=QUERY_FILE,
            code=lib("job", "store", "activations", "scgpt", "features", "annotate.encoding"),
        output:
            features=f"{ANNOTATE_FOLDER}/{QUERY}.features.zarr.zip",
        log:
            f"{RUN}/logs/annotate_features/{QUERY}.log",
        benchmark:
            f"{RUN}/benchmarks/annotate_features/{QUERY}.tsv"
        conda:
            "../../envs/scgpt.yaml" if config["model"]["backend"] == "scgpt" else "../../envs/model.yaml"
        threads: 2
        resources:
            mem_mb=memory(3000, 20),
            runtime=minutes(60, 240),
        params:
            run=finished_run,
            name=QUERY,
            annotate=ARMS[""]["annotate"],
            extraction={
                "backend": ARMS[""]["model"]["backend"],
                "seed": config["seed"],
                **{
                    key: ARMS[""]["activations"][key]
                    for key in ("dtype", "mantissa_bits", "mode", "max_length", "batch_tokens")
                },
            },
            work=f"{RUN}/.work/annotate",
        script:
            "../../scripts/annotate_features.py"

    rule annotate_cells:
        input:
            cells=QUERY_FILE,
            features=f"{ANNOTATE_FOLDER}/{QUERY}.features.zarr.zip",
            code=lib("job", "store", "activity.files", "tis.units", "annotate.scoring"),
        output:
            cells=ANNOTATED["cells"],
        log:
            f"{RUN}/logs/annotate_cells/{QUERY}.log",
        benchmark:
            f"{RUN}/benchmarks/annotate_cells/{QUERY}.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=annotation_memory,
            runtime=minutes(30),
        params:
            run=finished_run,
            name=QUERY,
            annotate=ARMS[""]["annotate"],
        script:
            "../../scripts/annotate_cells.py"

    rule annotate_report:
        input:
            cells=ANNOTATED["cells"],
            code=lib("job", "store", "report", "annotate.page"),
        output:
            report=report(
                ANNOTATED["report"],
                caption="../report/annotate.rst",
                category="Annotated cells",
                labels={"cells": QUERY},
            ),
        log:
            f"{RUN}/logs/annotate_report/{QUERY}.log",
        benchmark:
            f"{RUN}/benchmarks/annotate_report/{QUERY}.tsv"
        conda:
            "../../envs/report.yaml"
        threads: 1
        resources:
            mem_mb=memory(1500, 10),
            runtime=minutes(10),
        params:
            name=QUERY,
        script:
            "../../scripts/annotate_report.py"

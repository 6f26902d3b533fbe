"""Rule frontier: FVU, L0, loss recovered and concept F1 of the main arm's dictionaries and of the sweep."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd

        from interptfm import store

        rows = []
        measures = ("tokens", "l0", "fvu", "cosine", "dead", "dense")
        given = snakemake.input
        points = snakemake.params.points
        # Without a model that runs nothing says what a dictionary keeps of it.
        quality_files = given.get("quality") or [None] * len(points)
        files = zip(points, given.metrics, quality_files, given.alignment, strict=True)
        for point, metrics, quality, alignment in files:
            test = store.read_json(metrics)["test"]
            rows.append(
                {
                    **point,
                    **{key: test[key] for key in measures},
                    "recovered": store.read_json(quality)["recovered"]["mean"] if quality else None,
                    # A size is chosen by what validation says, so that the test blocks have no say in it.
                    "validation_excess": store.read_json(alignment)["validation_excess"],
                }
            )
        store.write_table(snakemake.output.frontier, pd.DataFrame(rows), job.provenance(snakemake))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

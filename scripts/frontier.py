"""Rule frontier: FVU and L0 on held-out blocks of all dictionaries of the main arm and of the sweep."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd

        from interptfm import store

        rows = []
        for point, path in zip(snakemake.params.points, snakemake.input.metrics, strict=True):
            test = store.read_json(path)["test"]
            rows.append(
                {**point, **{key: test[key] for key in ("tokens", "l0", "fvu", "cosine", "dead", "dense")}}
            )
        store.write_table(snakemake.output.frontier, pd.DataFrame(rows), job.provenance(snakemake))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

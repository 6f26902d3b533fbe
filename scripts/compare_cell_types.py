"""Rule compare_cell_types: every representation's scores side by side, paired by blocks."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.gene_text import comparison
        from interptfm.tis.units import listed

        given, params = snakemake.input, snakemake.params
        summaries = [store.read_json(path) for path in listed(given.summary)]
        names = [summary["representation"] for summary in summaries]
        frames = {
            role: dict(zip(names, map(store.read_table, listed(given[role])), strict=True))
            for role in ("predictions", "curve", "null")
        }
        tables = comparison.compare(
            **frames, types=summaries[0]["types"], rare=summaries[0]["rare"], reference=params.reference,
            bootstrap=int(params.bootstrap), seed=job.seed(params.seed, "gene_text", "bootstrap"),
        )  # fmt: skip
        for name, frame in tables.items():
            store.write_table(snakemake.output[name], frame)
        origin = job.provenance(snakemake, bootstrap=params.bootstrap, seed=params.seed)
        shared = {key: summaries[0][key] for key in ("n_cells", "folds", "types", "rare", "types_left_out")}
        store.write_json(
            snakemake.output.summary, {**shared, "reference": params.reference, "provenance": origin}
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

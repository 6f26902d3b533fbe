"""Rule annotate_cells: the run's concepts in a user's cells, on the run's scale."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.annotate import finished, query, scoring
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        run = finished.read(params.run)
        cells = query.read(given.cells, params.annotate, run.genes)
        codes, present = units.feature_units(
            given.features, scoring.as_cells(cells, params.name), run.settings["aggregate"]
        )
        with store.open_zarr(given.features) as group:
            read = list(group.attrs["genes_read"])
        origin = job.provenance(snakemake, annotate=params.annotate, run=params.run["digest"])
        facts = {"run": params.run["folder"], "group": params.annotate["group"]}
        found = scoring.annotated(run, cells, codes, present, read, facts, origin)
        store.write_h5ad(snakemake.output.cells, found)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

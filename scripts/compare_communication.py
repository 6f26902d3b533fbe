"""Rules compare_squidpy and compare_liana: one package's interactions between the groups of crosstalk."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.comparators import communication, liana_plus, ligrec, status

        given, params = snakemake.input, snakemake.params
        settings, system = dict(params.communication), params.system
        origin = job.provenance(
            snakemake, communication=settings, compartments=params.compartments, seed=params.seed
        )
        run = {"squidpy": ligrec.run, "liana": liana_plus.run}[system]

        def comparing():
            listed = store.read_json(given.listed)
            if listed["status"] == status.SKIPPED:
                raise status.Skipped(f"there are no interactions to test: {listed['reason']}")
            interactions = store.read_table(given.interactions)
            adata = communication.read_cells(given.cells, given.activity, given.regions, params.compartments)
            table, levels = communication.by_level(
                adata,
                settings["min_cells"],
                lambda cells, column: run(
                    cells, column, interactions, settings, job.seed(params.seed, system, column)
                ),
            )
            data = f"{adata.n_obs} cells, {len(interactions)} interactions"
            return table, {
                "data": data,
                "headline": communication.headline(table, settings["max_q"]),
                "levels": levels,
            }

        table, summary = status.attempt(system, system, comparing)
        store.write_table(
            snakemake.output.table, communication.empty() if table is None else table, provenance=origin
        )
        store.write_json(snakemake.output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

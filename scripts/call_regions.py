"""Rule call_regions: compartments called from units, the interface claim, and their agreement."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.regions import analysis
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings, layer = dict(params.regions), int(params.layer)
        origin = job.provenance(
            snakemake, regions=settings, units=params.space["name"], layer=layer, seed=params.seed
        )
        cells = units.read_cells(units.listed(given.cells))
        columns, present = units.read(params.space, units.listed(given.units), cells, layer)
        table = store.read_table(given.table)
        result = analysis.analyse(cells, present, columns, table, settings, params.seed)
        for name in analysis.TABLES:
            store.write_table(output[name], result.tables[name], provenance=origin)
        for sample, path in zip(cells.rows(), units.listed(output.regions), strict=True):
            mine = result.cells[result.cells["sample"] == sample]
            store.write_table(path, mine, provenance=origin)
        summary = {"units": params.space["name"], "layer": layer, **result.summary}
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

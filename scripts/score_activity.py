"""Rule score_activity: how active every concept is in every cell, and the channels of all terms."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from scipy import sparse

        from interptfm import store
        from interptfm.activity import analysis, files
        from interptfm.activity.channels import read_channels
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.activity)
        layer = int(store.read_json(given.summary)["layer"])
        origin = job.provenance(
            snakemake, activity=settings, dictionary=params.dictionary, layer=layer, seed=params.seed
        )
        cells = units.read_cells(units.listed(given.cells))
        codes, present = units.feature_units(given.features, cells, settings["aggregate"])
        concepts = analysis.Concepts(
            store.read_table(given.terms),
            sparse.load_npz(given.membership),
            store.read_table(given.genes)["gene"].astype(str).tolist(),
            store.read_table(given.dag),
        )
        found = analysis.analyse(
            cells, codes, present, concepts, store.read_table(given.interpretable),
            store.read_table(given.pairs), read_channels(given.channels), settings, params.seed,
        )  # fmt: skip
        paths = zip(
            units.listed(given.cells), units.listed(output.activity), cells.rows().values(), strict=True
        )
        for source, path, rows in paths:
            files.write_activity(
                path, source, found.matrix[rows], found.genes[rows], present[rows], found.var, origin
            )
        for name in ("concepts", "channels", "means"):
            store.write_table(output[name], getattr(found, name), provenance=origin)
        summary = {"dictionary": params.dictionary, "layer": layer, **found.summary}
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

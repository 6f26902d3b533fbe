"""Rule compare_spaces: scVI's latent beside `<cls>`, dictionary features and principal components."""

NO_LAYER = -1


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import numpy as np
        import pandas as pd

        from interptfm import store
        from interptfm.comparators import representations, status
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.classification)
        origin = job.provenance(snakemake, classification=settings, seed=params.seed)

        def comparing():
            cells = units.read_cells(units.listed(given.cells))
            latent, present = units.obsm_units([given.latent], cells, params.key)
            spaces = {("scvi", NO_LAYER): latent}
            for space in params.spaces:
                values, there = units.read(
                    space, units.listed(given[f"space_{space['name']}"]), cells, space["layer"]
                )
                spaces[space["name"], space["layer"]] = np.asarray(
                    values if isinstance(values, np.ndarray) else values.todense(), np.float64
                )
                present &= there
            train, test = (np.flatnonzero(present & (cells.split == name)) for name in ("train", "test"))
            seed = job.seed(params.seed, "compare_spaces")
            components = representations.principal_components(cells.counts, train, latent.shape[1], seed)
            spaces["expression PCA", NO_LAYER] = components
            table = representations.classify(
                spaces, cells.types, cells.blocks, train, test, settings,
                job.generator(params.seed, "compare_spaces", "bootstrap"),
            )  # fmt: skip
            parts = [table]
            for name, layer, tis in zip(params.scored, params.layers, units.listed(given.tis), strict=True):
                parts.append(representations.unit_scores(name, layer, store.read_json(tis)))
            for name, layer, path in zip(params.called, params.called_layers, given.agreement, strict=True):
                parts.append(representations.compartment_scores(name, layer, store.read_table(path)))
            data = f"{len(train)} cells of training blocks, {len(test)} of test blocks"
            found = {"data": data, "headline": representations.headline(table)}
            return pd.concat(parts, ignore_index=True), found

        table, summary = status.attempt("scvi, scored", None, comparing)
        empty = pd.DataFrame(columns=list(representations.COLUMNS))
        store.write_table(output.table, empty if table is None else table)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

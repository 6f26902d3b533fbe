"""Rule compare_spaces: TIS and compartments of another system's latent beside those of the run's units."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd

        from interptfm import store
        from interptfm.comparators import representations, status
        from interptfm.tis.units import listed

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        origin = job.provenance(snakemake)
        parts = [representations.unit_scores(store.read_json(path)) for path in listed(given.tis)]
        headline = representations.headline(pd.concat(parts), params.system)
        for name, layer, path in zip(params.called, params.called_layers, given.agreement, strict=True):
            parts.append(representations.compartment_scores(name, layer, store.read_table(path)))
        store.write_table(output.table, pd.concat(parts, ignore_index=True), provenance=origin)
        found = {"data": "cells of all blocks", "headline": headline}
        _, summary = status.attempt(f"{params.system}, scored", None, lambda: (None, found))
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

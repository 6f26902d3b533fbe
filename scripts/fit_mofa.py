"""Rule fit_mofa: factors of all cells over concepts, channels and stains, fitted on training blocks."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd
        from anndata import AnnData

        from interptfm import store
        from interptfm.comparators import mofa, mofa_tables, status
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.mofa)
        origin = job.provenance(snakemake, mofa=settings, seed=params.seed)
        cells = units.read_cells(units.listed(given.cells))

        def fitting():
            latent, tables, found = mofa.run(cells, units.listed(given.activity), settings, params.seed)
            return (latent, tables), found

        result, summary = status.attempt("mofa", "mofapy2", fitting)
        empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in mofa_tables.TABLES.items()}
        latent, tables = (AnnData(obs=cells.obs[["sample"]].iloc[:0]), empty) if result is None else result
        store.write_h5ad(output.latent, latent)
        for name, table in tables.items():
            store.write_table(output[name], table, provenance=origin)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule fit_scvi: scVI's latent of all cells, fitted on training blocks."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from anndata import AnnData

        from interptfm import store
        from interptfm.comparators import scvi_latent, status
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.scvi)
        origin = job.provenance(snakemake, scvi=settings, seed=params.seed)
        cells = units.read_cells(units.listed(given.cells))

        def fitting():
            latent, found = scvi_latent.fit(
                cells, settings, job.seed(params.seed, "scvi"), int(snakemake.threads)
            )
            data = f"{found['n_trained_on']} of {len(cells.obs)} cells, {len(cells.genes)} genes"
            bound = f"lower bound {found['elbo_train']:.1f} nats a training cell"
            return latent, {"data": data, "headline": f"{settings['n_latent']} dimensions, {bound}", **found}

        latent, summary = status.attempt("scvi", "scvi-tools", fitting)
        latent = AnnData(obs=cells.obs[["sample"]].iloc[:0]) if latent is None else latent
        store.write_h5ad(output.latent, latent)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

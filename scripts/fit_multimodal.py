"""Rules fit_totalvi and fit_multivi: the latent of two modalities, fitted on training blocks."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from anndata import AnnData

        from interptfm import store
        from interptfm.comparators import multimodal, status
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        system, settings = params.system, dict(params.settings)
        origin = job.provenance(snakemake, **{system: settings}, seed=params.seed)
        cells = units.read_cells(units.listed(given.cells))

        def fitting():
            modality = multimodal.read(system, given.get("counts"), params.path, cells)
            latent, found = multimodal.fit(
                system, cells, modality, settings, job.seed(params.seed, system), int(snakemake.threads)
            )
            columns = f"{found['n_columns']} {multimodal.FILES[system][2]}"
            data = f"{found['n_trained_on']} of {len(cells.obs)} cells ({found['n_both']} with both), "
            data += f"{len(cells.genes)} genes, {columns}"
            headline = multimodal.headline(found, settings["n_latent"])
            return latent, {"data": data, "headline": headline, **found}

        latent, summary = status.attempt(system, "scvi-tools", fitting)
        latent = AnnData(obs=cells.obs[["sample"]].iloc[:0]) if latent is None else latent
        store.write_h5ad(output.latent, latent)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

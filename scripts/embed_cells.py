"""Rule embed_cells: the cells of all samples in one form, from one provider's genes."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm.gene_text import cells as gene_cells
        from interptfm.gene_text import providers, texts
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        setting, form, n = dict(params.provider), params.form, int(params.n_genes)
        cells = units.read_cells(units.listed(given.cells))
        if form == "sentence":
            described = list(texts.read_texts(given.texts).values())
            provider = providers.make(setting, job.seed(params.seed, "gene_text", setting["name"]))
            provider.fit(described)
            values = gene_cells.embedded_sentences(provider, cells.counts, cells.genes, n, setting["name"])
        else:
            vectors, genes = units.gene_table(given.genes)
            if form == "permuted":
                vectors = gene_cells.permuted(
                    vectors, job.generator(params.seed, "gene_text", setting["name"], form)
                )
            values = gene_cells.weighted(cells.counts, cells.genes, genes, vectors, n)
        origin = job.provenance(snakemake, provider=setting, form=form, genes=n, seed=params.seed)
        gene_cells.write_cells(snakemake.output.cells, cells.obs, values, origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

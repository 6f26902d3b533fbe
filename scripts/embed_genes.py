"""Rule embed_genes: one vector a gene from one provider; a table that judges of TIS take, too."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import ontology, store
        from interptfm.gene_text import providers, texts
        from interptfm.tis.units import listed

        given, setting = snakemake.input, dict(snakemake.params.provider)
        if given.get("table"):
            setting["path"] = given.table
        panel = ontology.panel_of_cells(listed(given.cells))
        described = texts.read_texts(given.texts) if given.get("texts") else None
        seed = job.seed(snakemake.params.seed, "gene_text", setting["name"])
        genes, vectors, record = providers.gene_vectors(setting, described, panel, seed)
        origin = job.provenance(snakemake, provider=setting, seed=snakemake.params.seed)
        providers.write_genes(snakemake.output.genes, genes, vectors, origin)
        summary = {
            "provider": setting["name"], "kind": setting["kind"], "n_genes": len(genes),
            "n_panel": len(panel), "dimensions": vectors.shape[1], **record, "provenance": origin,
        }  # fmt: skip
        store.write_json(snakemake.output.summary, summary)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

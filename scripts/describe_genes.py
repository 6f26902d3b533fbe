"""Rule describe_genes: a text for each gene of the panel, from concepts or from a table."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import ontology, store
        from interptfm.gene_text import texts
        from interptfm.tis.units import listed

        given, params = snakemake.input, snakemake.params
        if given.get("texts"):
            found, source = texts.read_texts(given.texts), given.texts
        else:
            from scipy import sparse

            genes = store.read_table(given.genes)["gene"].astype(str).tolist()
            membership = sparse.csr_matrix(sparse.load_npz(given.membership))
            terms = store.read_table(given.terms)
            found, source = texts.from_terms(genes, membership, terms, int(params.max_terms)), given.terms
        panel = ontology.panel_of_cells(listed(given.cells))
        texts.write_texts(snakemake.output.texts, texts.of_panel(found, panel, source))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

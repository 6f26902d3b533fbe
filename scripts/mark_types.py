"""Rule mark_types: terms enriched in cell types, in the space of one provider's gene texts."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import numpy as np
        from scipy import sparse

        from interptfm import store
        from interptfm.gene_text import terms as gene_terms
        from interptfm.tis import units

        given, params, name = snakemake.input, snakemake.params, snakemake.wildcards.provider
        settings = dict(params.gene_text)
        cells = units.read_cells(units.listed(given.cells))
        some = units.at_most(cells, settings["max_cells"], job.generator(params.seed, "gene_text", "cells"))
        vectors, genes = units.gene_table(given.vectors)
        place = {gene: i for i, gene in enumerate(genes)}
        annotated = store.read_table(given.genes)["gene"].astype(str).tolist()
        rows = np.array([place.get(gene, -1) for gene in annotated])
        membership = sparse.csr_matrix(sparse.load_npz(given.membership)).astype(bool)
        terms = store.read_table(given.terms)
        chosen = gene_terms.chosen_terms(membership, terms, rows >= 0, **settings["terms"])
        frame = gene_terms.mark_types(
            cells.take(some), [gene for gene in annotated if gene in place], vectors[rows[rows >= 0]],
            settings["cells"]["genes"], membership[rows >= 0], terms, chosen,
            job.generator(params.seed, "gene_text", "terms", name),
        )  # fmt: skip
        origin = job.provenance(snakemake, gene_text=settings, seed=params.seed)
        store.write_table(snakemake.output.terms, frame, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule absorption: how often a parent term's feature is silent where a child's fires, on test tokens."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import alignment, features, store
        from interptfm.dictionary_quality import absorption as absorbed
        from interptfm.features import tokens

        given, params = snakemake.input, snakemake.params
        layer = int(params.layer)
        terms = store.read_table(given.terms)
        pairs = absorbed.pairs_of(store.read_table(given.dag), store.read_table(given.interpretable), terms)
        panel, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        genes = store.read_table(given.genes)["gene"].astype(str).tolist()
        membership = alignment.reindex(alignment.read_membership(given.membership), genes, panel)
        column = {term: number for number, term in enumerate(terms["term_id"])}
        child_genes = membership[[column[term] for term in pairs["child"]]].toarray() > 0
        dictionary = features.Dictionary(Path(given.weights).parent, job.device())
        test = [tokens.SPLITS.index("test")]
        blocks = (
            (block.gene, dictionary.encode(block.x))
            for block in tokens.blocks(list(given.activations), samples, layer, splits=test)
        )
        found = absorbed.absorption(pairs, child_genes, blocks if len(pairs) else ())
        store.write_table(snakemake.output.pairs, found, job.provenance(snakemake, layer=layer))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

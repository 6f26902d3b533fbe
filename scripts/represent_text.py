"""Rule represent_text: gene vectors as a representation of tokens, for alignment with concepts."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import features, store
        from interptfm.features import baselines
        from interptfm.tis.units import gene_table

        given, params = snakemake.input, snakemake.params
        genes, _ = features.samples_of([store.read_h5ad(path) for path in given.cells])
        vectors, known = gene_table(given.vectors)
        scores = baselines.text_scores(vectors, known, genes)
        origin = job.provenance(snakemake, provider=params.provider)
        features.write_representation(
            snakemake.output.representation, "genes", {"provenance": origin}, scores=scores
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

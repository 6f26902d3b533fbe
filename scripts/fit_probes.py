"""Rule fit_probes: linear probes of one layer, and their scores on held-out genes and cells."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import alignment, features, probes, store
        from interptfm.probes import fitting

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings, layer = dict(params.probes), int(params.layer)
        origin = job.provenance(snakemake, probes=settings, layer=layer, seed=params.seed)
        cells = [store.read_h5ad(path) for path in given.cells]
        genes, samples = features.samples_of(cells)
        terms = store.read_table(given.terms)["term_id"].astype(str).tolist()
        panel = store.read_table(given.genes)["gene"].astype(str).tolist()
        found = fitting.fit_layer(
            list(given.activations),
            samples,
            genes,
            layer,
            alignment.reindex(alignment.read_membership(given.membership), panel, genes),
            terms,
            {name: one.obs["block"].astype(str).to_numpy() for name, one in zip(samples, cells, strict=True)},
            settings,
            params.seed,
            fitting.model_of(given.activations),
        )
        probes.write_probes(output.weights, output.document, found.probes, origin)
        store.write_table(output.metrics, found.metrics, provenance=origin)
        store.write_table(output.summary, found.summary, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

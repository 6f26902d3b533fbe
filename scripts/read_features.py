"""Rule read_features: interpretable features by the ontology's graph, enrichment, entropy and regression."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import alignment, features, reading, store
        from interptfm.ontology import read_obo

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        firing, slim = features.read_firing(given.firing), given.get("slim")
        genes = store.read_table(given.genes)["gene"].astype(str).tolist()
        members = alignment.reindex(alignment.read_membership(given.membership), genes, firing.genes)
        result = reading.read(
            firing,
            members,
            *(store.read_table(given[name]) for name in ("terms", "dag", "evidence")),
            *(store.read_table(given[name]) for name in ("interpretable", "pairs")),
            features.read_cells(given.aggregates),
            [store.read_h5ad(path) for path in given.cells],
            slim=read_obo(slim).ids if slim else None,
            generator=job.generator(params.seed, "reading", params.layer),
            **params.reading,
        )
        origin = job.provenance(snakemake, reading=dict(params.reading), layer=params.layer)
        for name in ("terms", "enrichment", "entropy", "predictors", "path", "fits"):
            store.write_table(output[name], getattr(result, name), provenance=origin)
        store.write_json(output.summary, {**result.summary, "layer": params.layer, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

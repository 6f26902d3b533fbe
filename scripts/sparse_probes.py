"""Rule sparse_probes: how many features of a dictionary each concept needs."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import alignment, features, store
        from interptfm.probes import sparse

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.probes)
        origin = job.provenance(snakemake, probes=settings, layer=int(params.layer), seed=params.seed)
        firing = features.read_firing(given.firing)
        panel = store.read_table(given.genes)["gene"].astype(str).tolist()
        found = sparse.sparse_probes(
            firing,
            alignment.reindex(alignment.read_membership(given.membership), panel, firing.genes),
            store.read_table(given.terms)["term_id"].astype(str).tolist(),
            **settings,
            seed=params.seed,
        )
        store.write_table(output.terms_table, found.terms, provenance=origin)
        store.write_table(output.path, found.path, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

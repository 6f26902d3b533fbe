"""Rule compare_directions: cosines between probes within and across layers."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import alignment, probes, store
        from interptfm.probes import cosines

        given, params = snakemake.input, snakemake.params
        origin = job.provenance(snakemake, seed=params.seed)
        layers = [probes.read_probes(Path(path).parent, None) for path in given.documents]
        panel = store.read_table(given.genes)["gene"].astype(str).tolist()
        members = alignment.reindex(alignment.read_membership(given.membership), panel, layers[0].genes)
        table = cosines.compare(layers, members.toarray(), job.generator(params.seed, "probes", "cosines"))
        store.write_table(snakemake.output.cosines, table, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

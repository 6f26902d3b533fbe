"""Rule compare_representations: held-out cells and held-out genes, one row a representation and measure."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import headline, store

        given, params = snakemake.input, snakemake.params
        paths = [*given.main, *given.neurons, *given.arms, *given.baselines]
        table = headline.table([store.read_json(path) for path in paths], params.headline)
        layer = store.read_json(given.choice)["layer"]
        origin = job.provenance(snakemake, headline=params.headline)
        store.write_table(snakemake.output.table, table)
        summary = {"layer": layer, "headline": headline.nested(table, layer), "provenance": origin}
        store.write_json(snakemake.output.summary, summary)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

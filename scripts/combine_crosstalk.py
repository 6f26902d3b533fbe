"""Rule combine_crosstalk: the findings of all sections together, and in how many each stands."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.crosstalk import sections
        from interptfm.tis.units import listed

        given, output = snakemake.input, snakemake.output
        origin = job.provenance(snakemake, max_q=snakemake.params.max_q)
        pairs = sections.combine([store.read_table(path) for path in listed(given.pairs)])
        contrasts = sections.combine_contrasts([store.read_table(path) for path in listed(given.contrasts)])
        summaries = [store.read_json(path) for path in listed(given.summaries)]
        summaries = [{k: v for k, v in found.items() if k != "provenance"} for found in summaries]
        store.write_table(output.pairs, pairs, provenance=origin)
        store.write_table(output.contrasts, contrasts, provenance=origin)
        summary = sections.summarise(pairs, contrasts, summaries, float(snakemake.params.max_q))
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule diff_concepts: the main arm's ontology against an arm's: terms, memberships, headline."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import alignment, store
        from interptfm.ontology import diff

        given, output = snakemake.input, snakemake.output
        sides = []
        for side in ("old", "new"):
            genes = store.read_table(given[f"{side}_genes"])["gene"].astype(str).tolist()
            membership = alignment.read_membership(given[f"{side}_membership"])
            sides.append(diff.Version(store.read_table(given[f"{side}_terms"]), membership, genes))
        terms, memberships, summary = diff.compare(*sides)
        paths = ((given.old_summaries, "old"), (given.new_summaries, "new"))
        summaries = {side: [store.read_json(path) for path in found] for found, side in paths}
        headline = diff.headline(summaries["old"], summaries["new"])
        origin = job.provenance(snakemake, arm=snakemake.params.other)
        store.write_table(output.terms, terms)
        store.write_table(output.memberships, memberships)
        store.write_table(output.headline, headline)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

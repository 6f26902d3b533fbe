"""Rule recover_pairs: are the planted pairs among the top of all that were tested, and which way do they
run?
"""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import pair_recovery, store
        from interptfm.crosstalk import reading
        from interptfm.tis.units import listed

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.crosstalk)
        paths = zip(listed(given.activity), listed(given.regions), strict=True)
        sections = [reading.read_section(*pair, settings["compartments"]) for pair in paths]
        graphs = [
            reading.section_graph(section, {**settings["graph"], "path": path or settings["graph"]["path"]})
            for section, path in zip(
                sections, listed(given.get("graph", [])) or [None] * len(sections), strict=True
            )
        ]
        rows, summary = pair_recovery.evaluate(
            store.read_table(given.pairs),
            store.read_table(given.planted),
            sections,
            graphs,
            store.read_table(given.truth_cells),
            settings,
            params.seed,
        )
        store.write_table(output.pairs, rows)
        origin = job.provenance(snakemake, crosstalk=settings, seed=params.seed)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

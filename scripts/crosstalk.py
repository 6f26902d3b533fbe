"""Rule crosstalk_section: the graph of one section, what neighbours share, and which of it is beyond
chance.
"""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.activity.channels import read_channels
        from interptfm.crosstalk import analysis, contrasts, files, reading

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings, sample = dict(params.crosstalk), snakemake.wildcards.sample
        origin = job.provenance(snakemake, crosstalk=settings, seed=params.seed)
        names = read_channels(given.channels).names
        section = reading.read_section(given.activity, given.regions, settings["compartments"])
        if settings["graph"]["kind"] == "obsp":
            settings["graph"] = {**settings["graph"], "path": given.graph}
        found = analysis.analyse(
            section,
            settings,
            names,
            contrasts.read_contrasts(given.contrasts, names),
            store.read_table(given.dag),
            params.seed,
            sample,
        )
        for name in analysis.TABLES:
            store.write_table(output[name], found.tables[name], provenance=origin)
        files.write_network(output.network, found.tables["pairs"], section, settings["max_q"])
        files.write_graph(output.graph, section, found.graph, origin)
        store.write_json(output.summary, {**found.summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

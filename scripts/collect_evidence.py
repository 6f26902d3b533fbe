"""Rule collect_evidence: graded chains of evidence, and how many there are where nothing is to be found."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.evidence import analysis, reading

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings, layer = dict(params.evidence), int(params.layer)
        origin = job.provenance(
            snakemake, evidence=settings, alignment=dict(params.alignment), dictionary=params.dictionary,
            layer=layer, seed=params.seed,
        )  # fmt: skip
        material = reading.read(given, params.dictionary, layer, settings)
        found = analysis.collect(
            **material, settings=settings, alignment=dict(params.alignment), seed=params.seed
        )
        for name, frame in (("evidence", found.rows), ("funnel", found.funnel)):
            store.write_table(output[name], frame, provenance=origin)
        labels = {"dictionary": params.dictionary, "layer": layer}
        store.write_json(output.summary, {**labels, **found.summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

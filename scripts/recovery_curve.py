"""Rule recovery_curve: excess over the null against the strength at which programs were planted.

Inputs ``concepts``, ``summaries`` and ``truth_programs`` and params ``strengths`` and ``layers`` are
lists of one length: one entry a strength and layer.
"""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import recovery, store

        given, params = snakemake.input, snakemake.params
        runs = [
            {
                "strength": strength,
                "layer": layer,
                "concepts": store.read_table(concepts),
                "validation_excess": recovery.validation_excess(store.read_json(summary)),
                "truth": store.read_table(truth),
            }
            for strength, layer, concepts, summary, truth in zip(
                params.strengths,
                params.layers,
                given.concepts,
                given.summaries,
                given.truth_programs,
                strict=True,
            )
        ]
        curve = recovery.strength_curve(runs, store.read_table(given.terms), params.seed)
        store.write_table(snakemake.output.curve, curve)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule compare_models: the alignment of every arm with a model of its own, each beside its own null."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import models, store

        given = snakemake.input
        files = zip(snakemake.params.models, given.concepts, given.summaries, given.cfgs, strict=True)
        entries = [
            {
                **known,
                "concepts": store.read_table(concepts),
                "summary": store.read_json(summary),
                "cfg": store.read_json(cfg),
            }
            for known, concepts, summary, cfg in files
        ]
        store.write_table(snakemake.output.models, models.table(entries, snakemake.params.seed))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

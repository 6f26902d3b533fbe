"""Rule list_systems: one row a system: version, data, headline, or the reason why it was skipped."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.comparators import status
        from interptfm.tis import units

        table = status.systems(units.listed(snakemake.input.summaries))
        for row in table[table["status"] == status.SKIPPED].itertuples():
            job.log.warning("%s was skipped: %s", row.system, row.reason)
        store.write_table(snakemake.output.systems, table)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

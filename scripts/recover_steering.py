"""Rule recover_steering: steering held against the truth of the simulated screen."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import steering_recovery, store

        given = snakemake.input
        tables = {
            name: store.read_table(given[name]) for name in ("effects", "genes", "ablation", "expression")
        }
        regulators, claims = steering_recovery.evaluate(
            **tables,
            cells=store.read_table(given.truth_cells),
            targets=store.read_table(given.truth_targets),
            program_genes=store.read_table(given.truth_genes),
        )
        store.write_table(snakemake.output.regulators, regulators)
        store.write_table(snakemake.output.claims, claims)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule recover_units: do units that follow planted programs score, and is the border's program found?"""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store, unit_recovery
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        cells = units.read_cells(units.listed(given.cells))
        layer = int(params.layer)
        columns, present = units.read(params.space, units.listed(given.units), cells, layer)
        programs, claims, summary = unit_recovery.evaluate(
            cells,
            present,
            columns,
            truth=store.read_table(given.truth_cells),
            planted=store.read_table(given.truth_programs),
            table=store.read_table(given.table),
            tis=store.read_json(given.tis_summary),
            interface=store.read_table(given.interface),
            agreement=store.read_table(given.agreement),
            max_q=float(params.max_q),
        )
        store.write_table(snakemake.output.programs, programs)
        store.write_table(snakemake.output.claims, claims)
        origin = job.provenance(snakemake, units=params.space["name"], layer=layer)
        store.write_json(snakemake.output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

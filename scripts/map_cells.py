"""Rule map_cells: UMAP of held-out cells before and after refinement."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.gene_text import classification, maps
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        settings, source = dict(params.gene_text), dict(params.source)
        representation, task, cells, _ = classification.open_task(
            units.listed(given.cells), source, units.listed(given.get("representation", [])), settings,
            dict(params.donors), float(params.guard_um), params.seed,
        )  # fmt: skip
        origin = job.provenance(snakemake, gene_text=settings, source=source, seed=params.seed)
        frame = maps.plane(representation, task, cells, settings["umap"])
        store.write_table(snakemake.output.map, frame, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

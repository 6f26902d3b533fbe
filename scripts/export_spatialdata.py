"""Rule export_spatialdata: a section as SpatialData, with counts, concept activity and regions."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.export import spatial

        given = snakemake.input
        data = spatial.section(
            store.read_h5ad(given.cells), store.read_h5ad(given.activity), store.read_table(given.regions)
        )
        with store.atomic_folder(snakemake.output.zarr) as folder:
            spatial.write(folder, data)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

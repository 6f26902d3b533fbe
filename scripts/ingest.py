"""Rule ingest: raw files of one sample to cells with types, blocks, splits and shards, and their QC."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import json

        from interptfm import cosmx, qc, store

        params, roles = snakemake.params, ("counts", "metadata", "positions", "h5ad", "cell_types")
        vocabulary = snakemake.input.get("vocabulary")
        cells, report = cosmx.ingest(
            files={role: snakemake.input.get(role) for role in roles if snakemake.input.get(role)},
            sample=params.sample,
            format=params.format,
            pixel_size_um=params.pixel_size_um,
            donor=params.donor,
            shards=params.shards,
            samples=params.samples,
            cells=params.cells,
            seed=params.seed,
            cell_types_column=params.cell_types_column,
            vocabulary=store.read_json(vocabulary) if vocabulary else None,
        )
        settings = {key: value for key, value in params.items() if key != "samples"}
        cells.uns["interptfm"] = json.dumps(job.provenance(snakemake, **settings), sort_keys=True)
        store.write_table(snakemake.output.qc, qc.qc_table(cells, report))
        qc.write_figure(snakemake.output.figure, qc.qc_figure(cells, params.sample), params.sample)
        store.write_h5ad(snakemake.output.cells, cells)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

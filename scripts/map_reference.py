"""Rule map_reference: the groups of a single-cell reference on cell types and compartments, by Tangram."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd
        from anndata import AnnData

        from interptfm import store
        from interptfm.comparators import communication, status, tangram_map
        from interptfm.crosstalk.reading import read_compartments
        from interptfm.tis import units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.tangram)
        origin = job.provenance(snakemake, tangram=settings, seed=params.seed)

        def mapping():
            status.require(
                given.get("reference"), "single-cell reference", "tangram.reference", params.reference
            )
            group = settings["group"]
            reference = tangram_map.check_reference(given.reference, store.read_h5ad(given.reference), group)
            cells = units.read_cells(units.listed(given.cells))
            places = read_compartments(units.listed(given.regions), cells, params.compartments)
            adata = AnnData(
                X=cells.counts.astype("float32"), obs=pd.DataFrame(index=cells.obs.index),
                var=pd.DataFrame(index=pd.Index(cells.genes)),
            )  # fmt: skip
            found, genes = tangram_map.run(reference, group, adata, settings, params.seed)
            table = tangram_map.shares(
                found.X, found.obs[group].astype(str).tolist(), reference.obs[group].value_counts().to_dict(),
                {communication.TYPES: cells.types, communication.PLACES: places}, cells.blocks,
                settings["bootstrap"], job.generator(params.seed, "tangram", "bootstrap"),
            )  # fmt: skip
            data = (
                f"{reference.n_obs} cells of {found.n_obs} groups on {adata.n_obs} cells, {len(genes)} genes"
            )
            return (table, genes), {"data": data, "headline": tangram_map.headline(table, genes)}

        result, summary = status.attempt("tangram", "tangram-sc", mapping)
        empty = [pd.DataFrame(columns=list(c)) for c in (tangram_map.COLUMNS, tangram_map.GENE_COLUMNS)]
        table, genes = empty if result is None else result
        store.write_table(output.clusters, table, provenance=origin)
        store.write_table(output.genes, genes, provenance=origin)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule map_steered: a UMAP of control, perturbed and steered cells by their `<cls>`."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.steering import mapping

        cells = store.read_table(snakemake.input.cells)
        seed = job.seed(snakemake.params.seed, "steering", "map")
        origin = job.provenance(snakemake, seed=snakemake.params.seed)
        store.write_table(snakemake.output.map, mapping.embed(cells, seed), provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

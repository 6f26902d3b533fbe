"""Rule embed_second_model: a sample's hidden states of a second random model, as a user would bring them."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import json

        import numpy as np

        from interptfm import embeddings, second_model, store

        given, params = snakemake.input, snakemake.params
        samples = {path: store.read_h5ad(path) for path in given.cells}
        genes = store.panel(adata.var_names for adata in samples.values())
        place_of = {gene: i for i, gene in enumerate(genes)}
        columns = {
            path: np.array([place_of[str(gene)] for gene in adata.var_names])
            for path, adata in samples.items()
        }
        scale = second_model.medians(
            [adata.X for adata in samples.values()], list(columns.values()), len(genes)
        )
        mine = next(path for path in given.cells if path.endswith(f"/{params.sample}.h5ad"))
        adata, of_genes = samples[mine], columns[mine]
        cell, column, place = second_model.ranked(adata.X, scale[of_genes])
        network = second_model.Network(len(genes), job.seed(params.seed, "second_model"))
        embeddings.write_tokens(
            snakemake.output.tokens,
            cell,
            column,
            list(adata.obs_names),
            list(adata.var_names),
            range(second_model.LAYERS),
            second_model.D,
            second_model.states(network, of_genes[column], cell, place, job.device()),
            model=f"{second_model.NAME}, seed {params.seed}",
            uns={"interptfm": json.dumps(job.provenance(snakemake, seed=params.seed), sort_keys=True)},
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

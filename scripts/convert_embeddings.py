"""Rule convert_embeddings: a shard's activations, from files of another model's hidden states."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import embeddings, store

        given, params = snakemake.input, snakemake.params
        adata = store.read_h5ad(given.cells)
        settings = dict(params.items())
        embeddings.convert(
            snakemake.output.activations,
            given.tokens,
            given.get("cell_states"),
            adata.X,
            list(adata.var_names),
            list(adata.obs_names),
            adata.obs["shard"].to_numpy() == int(params.shard),
            params.layers,
            dtype=params.dtype,
            mantissa_bits=params.mantissa_bits,
            attributes={
                "sample": params.sample,
                "shard": int(params.shard),
                "provenance": job.provenance(snakemake, activations=settings),
            },
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

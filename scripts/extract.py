"""Rule extract: hidden states of the chosen layers for one shard of a sample."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import activations, store
        from interptfm.errors import InputError

        params, device = snakemake.params, job.device()
        model = activations.load_model(Path(snakemake.input.weights).parent, device, params.backend)
        if model.genes != params.genes:
            raise InputError(
                f"{snakemake.input.args}: found a model of genes {model.genes!r}, expected {params.genes!r}"
            )
        adata = store.read_h5ad(snakemake.input.cells)
        activations.write_shard(
            snakemake.output.activations,
            model,
            adata.X,
            list(adata.var_names),
            list(adata.obs_names),
            adata.obs["shard"].to_numpy() == int(params.shard),
            params.layers,
            dtype=params.dtype,
            mantissa_bits=params.mantissa_bits,
            gene_tokens=params.gene_tokens,
            mode=params.mode,
            max_length=params.max_length,
            batch_tokens=params.batch_tokens,
            seed=params.seed,
            device=device,
            attributes={
                "sample": params.sample,
                "shard": int(params.shard),
                "provenance": job.provenance(snakemake, activations=dict(params.items())),
            },
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule dictionary_quality: the error of the model with a layer replaced by its reconstruction."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import activations, pretrain, store
        from interptfm.dictionary_quality import recovered
        from interptfm.sae import format as sae_format

        given, params, device = snakemake.input, snakemake.params, job.device()
        samples = []
        for path in given.cells:
            adata = store.read_h5ad(path)
            split = adata.obs["split"].to_numpy().astype(str)
            samples.append(pretrain.Sample(adata.X, list(adata.var_names), split, list(adata.obs_names)))
        model = activations.load_model(Path(given.model).parent, device)
        batches = recovered.masked_cells(
            samples,
            model,
            params.mask_ratios,
            job.generator(params.seed, "dictionary_quality", "cells"),
            params.seed,
            mode=params.mode,
            max_length=params.max_length,
        )
        dictionary = sae_format.load(Path(given.weights).parent, device)
        found = recovered.loss_recovered(
            model.network, batches, dictionary, int(params.layer), params.tokens, device
        )
        origin = job.provenance(snakemake, quality=dict(params.items()))
        store.write_json(snakemake.output.quality, {**found, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

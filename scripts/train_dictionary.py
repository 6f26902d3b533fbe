"""Rule train_dictionary: a sparse dictionary of one layer's activations, measured on held-out blocks."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm.sae import stage

        params, output = snakemake.params, snakemake.output
        names = ("dictionary", params.name, params.layer)
        checkpoint = Path(params.work) / "dictionary.pt"
        result = stage.run(
            cells=list(snakemake.input.cells),
            activations=list(snakemake.input.activations),
            layer=int(params.layer),
            settings={**params.dictionary, "name": params.name},
            rng=job.generator(params.seed, *names, "batches"),
            seed=job.seed(params.seed, *names, "weights"),
            checkpoint_path=checkpoint,
            device=job.device(),
            progress=job.progress,
        )
        provenance = job.provenance(
            snakemake, dictionary=dict(params.dictionary), layer=params.layer, seed=params.seed
        )
        stage.write(output.cfg, output.weights, output.training, output.metrics, result, provenance)
        checkpoint.unlink(missing_ok=True)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule train_dictionary: train (or import) the dictionary of one layer, measure it on held-out blocks."""


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
        stage.write(
            output.cfg,
            output.weights,
            output.training,
            output.speed,
            output.metrics,
            result,
            provenance,
        )
        checkpoint.unlink(missing_ok=True)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

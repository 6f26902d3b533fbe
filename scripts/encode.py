"""Rule encode: training maxima and firing counts of one representation of one layer."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import features, store

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        name, layer, thresholds = params.representation, int(params.layer), list(params.thresholds)
        origin = job.provenance(snakemake, thresholds=thresholds, representation=name, layer=layer)
        activations = list(given.activations)
        weights = given.get("weights")
        folder = Path(weights).parent if weights else None
        genes, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        result = features.extract(
            activations,
            samples,
            genes,
            features.representation_of(name, activations, folder, job.device() if weights else "cpu"),
            layer,
            thresholds=thresholds,
            attributes={"representation": name, "layer": layer, "provenance": origin},
        )
        with store.atomic(output.max) as path:
            np.save(path, result.maximum)
        features.write_firing(output.firing, result.firing)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule encode: training maxima and firing counts of one representation of one layer."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import features, store

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = {"thresholds": list(params.thresholds), "grid": params.grid}
        name, layer = params.representation, int(params.layer)
        origin = job.provenance(snakemake, features=settings, representation=name, layer=layer)
        activations = list(given.activations)
        weights, fitted = given.get("weights"), given.get("representation")
        source = Path(weights).parent if weights else fitted
        device = job.device() if weights else "cpu"
        genes, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        result = features.extract(
            activations,
            samples,
            genes,
            features.representation_of(name, activations, source, device),
            layer,
            attributes={"representation": name, "layer": layer, "provenance": origin},
            **settings,
        )
        with store.atomic(output.max) as path:
            np.save(path, result.maximum)
        features.write_firing(output.firing, result.firing)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

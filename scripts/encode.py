"""Rule encode: firing counts, cell aggregates and top tokens of one representation of one layer."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import features, store

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = {"thresholds": list(params.thresholds), "top_tokens": int(params.top_tokens)}
        name, layer = params.representation, int(params.layer)
        origin = job.provenance(snakemake, features=settings, representation=name, layer=layer)
        attributes = {"representation": name, "layer": layer, "provenance": origin}
        activations = list(given.activations)
        weights = given.get("weights")
        folder = Path(weights).parent if weights else None
        device = job.device() if weights else "cpu"
        genes, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        result = features.extract(
            activations,
            samples,
            genes,
            features.representation_of(name, activations, folder, device),
            layer,
            attributes=attributes,
            **settings,
        )
        with store.atomic(output.max) as path:
            np.save(path, result.maximum)
        features.write_firing(output.firing, result.firing)
        if result.cells is not None:
            features.write_cells(output.cells, result.cells, attributes)
            store.write_table(output.top_tokens, result.top_tokens, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

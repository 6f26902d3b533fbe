"""Rule aggregate: a dictionary's features in every cell, and the strongest tokens of every feature."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import features, store

        given, params = snakemake.input, snakemake.params
        name, layer, top = params.representation, int(params.layer), int(params.top_tokens)
        origin = job.provenance(snakemake, top_tokens=top, representation=name, layer=layer)
        genes, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        cells, top_tokens, histogram = features.aggregate(
            list(given.activations),
            samples,
            genes,
            features.Dictionary(Path(given.weights).parent, job.device()),
            layer,
            np.load(given.max),
            top_tokens=top,
        )
        attributes = {"representation": name, "layer": layer, "provenance": origin}
        features.write_cells(snakemake.output.cells, cells, attributes)
        store.write_table(snakemake.output.top_tokens, top_tokens, provenance=origin)
        with store.atomic(snakemake.output.histogram) as path:
            np.save(path, histogram)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

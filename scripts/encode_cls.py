"""Rule encode_cls: the features of a dictionary of `<cls>` in every cell."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import features, store
        from interptfm.features import cls

        given, params = snakemake.input, snakemake.params
        name, layer = params.representation, int(params.layer)
        origin = job.provenance(snakemake, representation=name, layer=layer)
        _, samples = features.samples_of(store.read_h5ad(path) for path in given.cells)
        dictionary = features.Dictionary(Path(given.weights).parent, job.device())
        cells = cls.aggregate_cls(list(given.activations), samples, dictionary, layer)
        attributes = {"representation": name, "layer": layer, "provenance": origin}
        features.write_cells(snakemake.output.cells, cells, attributes)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule choose_layer: the layer with the largest validation excess of the headline dictionary."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import recovery, store

        excess = [recovery.validation_excess(store.read_json(path)) for path in snakemake.input.summaries]
        excess = dict(zip(snakemake.params.layers, excess, strict=True))
        chosen = {"layer": recovery.choose_layer(excess), "validation_excess": excess}
        store.write_json(snakemake.output.choice, {**chosen, "provenance": job.provenance(snakemake)})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule stability: which features of a dictionary come back under other seeds."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import store
        from interptfm.dictionary_quality import stability as seeds
        from interptfm.sae import buffer, stage
        from interptfm.sae import format as sae_format

        given, params = snakemake.input, snakemake.params
        layer, tokens = int(params.layer), params.tokens
        by_sample = stage.cell_splits(given.cells)
        held_out = [
            buffer.token_splits(path, by_sample, tokens) == "validation" for path in given.activations
        ]
        first, *others = [sae_format.load(Path(path).parent) for path in (given.weights, *given.seeds)]
        frame, summary = seeds.stability(
            first,
            others,
            buffer.selected_blocks(list(given.activations), layer, held_out, tokens),
            job.generator(params.seed, "stability", params.dictionary, layer),
        )
        origin = job.provenance(snakemake, stability=dict(params.items()))
        labels = {"dictionary": params.dictionary, "layer": layer}
        store.write_table(snakemake.output.features, frame, origin)
        store.write_json(snakemake.output.summary, {**labels, **summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

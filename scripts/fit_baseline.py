"""Rule fit_baseline: fit PCA, NMF or random directions to activations, or score genes."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import features, store
        from interptfm.features import baselines

        given, params = snakemake.input, snakemake.params
        name, layer, components = params.representation, int(params.layer), int(params.components)
        generator = job.generator(params.seed, "baseline", name, layer)
        adatas = [store.read_h5ad(path) for path in given.cells]
        genes, samples = features.samples_of(adatas)
        if name == "static":
            from interptfm import activations

            model = activations.load_model(Path(given.weights).parent)
            encoder = model.network.encoder
            weights = encoder.enc_norm(encoder.embedding.weight).numpy()
            scores = baselines.static_scores(weights, activations.gene_ids(genes, model))
            kind, arrays = "genes", {"scores": scores}
        elif name in baselines.OF_GENES:
            kind = "genes"
            arrays = {"scores": baselines.expression_scores(name, adatas, genes, components, generator)}
        else:
            firing = features.read_firing(given.firing)
            active = firing.counts[..., 0].sum() / firing.tokens.sum()
            kind, arrays = baselines.fit(
                name,
                list(given.activations),
                samples,
                layer,
                components,
                n_features=firing.counts.shape[2],
                k=round(active),
                generator=generator,
            )
        origin = job.provenance(snakemake, representation=name, layer=layer, components=components)
        features.write_representation(snakemake.output.representation, kind, {"provenance": origin}, **arrays)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

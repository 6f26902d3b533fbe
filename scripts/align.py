"""Rule align: best F1 of concepts and features on test blocks, beside null and single-gene baseline."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import alignment, features, store
        from interptfm.alignment import intervals

        given, params = snakemake.input, snakemake.params
        layer, names = int(params.layer), (params.representation, params.arm)
        settings = dict(params.alignment)
        draws = settings["bootstrap"]
        origin = job.provenance(
            snakemake,
            alignment=settings,
            representation=params.representation,
            layer=layer,
            arm=params.arm,
            seed=params.seed,
        )
        stability = given.get("stability")
        result = alignment.align(
            features.read_firing(given.firing),
            alignment.read_membership(given.membership),
            store.read_table(given.terms),
            store.read_table(given.genes)["gene"].astype(str).tolist(),
            generator=job.generator(params.seed, "align", *names, layer),
            fold_generator=job.generator(params.seed, "gene folds"),
            stable=store.read_table(stability) if stability else None,
            **{key: value for key, value in settings.items() if key != "bootstrap"},
        )
        weights, fitted = given.get("weights"), given.get("representation")
        source = Path(weights).parent if weights else fitted
        device = job.device() if weights else "cpu"
        intervals.bootstrap(
            result,
            list(given.activations),
            [store.read_h5ad(path) for path in given.cells],
            features.representation_of(params.representation, given.activations, source, device),
            layer,
            np.load(given.max),
            draws,
            job.generator(params.seed, "intervals", *names, layer),
        )
        for table in ("pairs", "concepts", "features", "interpretable", "null"):
            store.write_table(snakemake.output[table], getattr(result, table), provenance=origin)
        labels = {"representation": params.representation, "layer": layer, "arm": params.arm}
        store.write_json(snakemake.output.summary, {**labels, **result.summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

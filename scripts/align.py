"""Rule align: best F1 of concepts and features on test blocks, beside null and single-gene baseline."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd

        from interptfm import alignment, features, store

        given, params = snakemake.input, snakemake.params
        layer, names = int(params.layer), (params.representation, params.arm)
        settings = dict(params.alignment)
        origin = job.provenance(
            snakemake,
            alignment=settings,
            representation=params.representation,
            layer=layer,
            arm=params.arm,
            seed=params.seed,
        )
        result = alignment.align(
            features.read_firing(given.firing),
            alignment.read_membership(given.membership),
            store.read_table(given.terms),
            store.read_table(given.genes)["gene"].astype(str).tolist(),
            generator=job.generator(params.seed, "align", *names, layer),
            **settings,
        )
        if given.get("stability"):
            stable = store.read_table(given.stability).set_index("feature")["stable"]
            matched = stable.reindex(result.interpretable["feature"]).to_numpy()
            result.interpretable["stable"] = pd.array(matched, "boolean")
        for table in ("pairs", "concepts", "features", "interpretable", "null"):
            store.write_table(snakemake.output[table], getattr(result, table), provenance=origin)
        labels = {"representation": params.representation, "layer": layer, "arm": params.arm}
        store.write_json(snakemake.output.summary, {**labels, **result.summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

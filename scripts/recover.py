"""Rule recover: planted programs against null, baselines and arms, in the layer chosen on validation."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import recovery, store
        from interptfm.headline import LABELS

        given, params = snakemake.input, snakemake.params
        lists = {"SAE": ("main", params.layers), "raw neurons": ("neurons", params.layers)}
        lists |= {arm: (f"arm_{arm}", layers) for arm, layers in params.arms.items()}
        concepts = {}
        for name, (key, layers) in lists.items():
            paths = [given[key]] if isinstance(given[key], str) else given[key]
            tables = map(store.read_table, paths)
            concepts[name] = dict(zip(layers, tables, strict=True))
        layer = store.read_json(given.choice)["layer"]
        for name, path in zip(params.baselines, given.baselines, strict=True):
            concepts[LABELS[name]] = {layer: store.read_table(path)}
        summaries = [given.main_summary] if isinstance(given.main_summary, str) else given.main_summary
        excess = [recovery.validation_excess(store.read_json(path)) for path in summaries]
        programs, comparisons, summary = recovery.evaluate(
            store.read_table(given.truth_programs),
            store.read_table(given.terms),
            concepts,
            dict(zip(params.layers, excess, strict=True)),
            params.seed,
        )
        origin = job.provenance(snakemake, layers=list(params.layers), seed=params.seed)
        store.write_table(snakemake.output.programs, programs, provenance=origin)
        store.write_table(snakemake.output.comparisons, comparisons)
        store.write_json(snakemake.output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

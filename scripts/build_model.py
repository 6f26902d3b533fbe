"""Rule build_model: load the checkpoint, or make a model from the cells; written in the official format."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import pretrain, store
        from interptfm.scgpt import checkpoint

        params, given = snakemake.params, snakemake.input.get("checkpoint")
        samples = []
        for path in snakemake.input.cells:
            adata = store.read_h5ad(path)
            split = adata.obs["split"].to_numpy().astype(str)
            samples.append(pretrain.Sample(adata.X, list(adata.var_names), split, list(adata.obs_names)))
        work = Path(params.work, "pretrain.pt")
        built = pretrain.build(
            samples,
            params.model,
            checkpoint=Path(given[0]).parent if given else None,
            genes=params.genes,
            mode=params.mode,
            max_length=params.max_length,
            seed=params.seed,
            work=work,
            device=job.device(),
        )
        folder = Path(snakemake.output.weights).parent
        origin = job.provenance(snakemake, model=params.model, genes=params.genes, mode=params.mode)
        checkpoint.save(folder, built.model, built.vocabulary, built.extra_args)
        store.write_table(snakemake.output.training, built.history, origin)
        store.write_json(snakemake.output.metrics, {**built.metrics, "provenance": origin})
        work.unlink(missing_ok=True)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

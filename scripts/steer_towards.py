"""Rule steer_towards: cells of the run steered towards concepts, read out of decoded expression."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import activations, alignment, probes, store
        from interptfm.steering import towards
        from interptfm.tis import units

        given, params, device = snakemake.input, snakemake.params, job.device()
        chosen = {**params.steering, **params.steering["concepts"]}
        model = activations.load_model(Path(given.weights).parent, device)
        document = given.probes if isinstance(given.probes, str) else given.probes[0]
        found = probes.read_probes(Path(document).parent, model.digest)
        cells = units.read_cells(units.listed(given.cells))
        panel = store.read_table(given.genes)["gene"].astype(str).tolist()
        members = alignment.reindex(alignment.read_membership(given.membership), panel, cells.genes)
        draw = job.generator(params.seed, "steering", "towards")
        tokens, ids, typed = towards.tokens_of(model, cells, chosen, draw, params.seed)
        table, summary = towards.towards(
            model, tokens, cells.genes, ids, found, members.toarray() > 0, chosen["direction"],
            {**chosen, "random": chosen["random"]["directions"]}, draw, device=device,
        )  # fmt: skip
        names = store.read_table(given.terms).assign(term_id=lambda frame: frame["term_id"].astype(str))
        table = table.merge(names[["term_id", "name"]], on="term_id", how="left")
        origin = job.provenance(snakemake, steering=dict(params.steering), seed=params.seed)
        store.write_table(snakemake.output.concepts, table, provenance=origin)
        store.write_json(
            snakemake.output.concepts_summary, {**summary, "cell_type": typed, "provenance": origin}
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule score_units: TIS of one space of units at one layer, beside its controls."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.tis import table, units

        given, params, threads = snakemake.input, snakemake.params, int(snakemake.threads)
        settings, layer = dict(params.tis), int(params.layer)
        origin = job.provenance(snakemake, tis=settings, layer=layer, seed=params.seed)
        cells = units.read_cells(units.listed(given.cells))
        columns, present = units.read(settings.pop("space"), units.listed(given.units), cells, layer)
        untrained = held_out = embedding = None
        if given.get("untrained"):
            untrained, _ = units.cls_units(units.listed(given.untrained), cells, layer)
        if given.get("held_out"):
            states, seen = units.cls_units(units.listed(given.held_out), cells, layer)
            hidden = set(store.read_json(given.held_out_args)["excluded_genes"])
            visible = units.visible(cells.genes, hidden)
            held_out = table.HeldOut(states, seen, visible, bool(params.same_weights))
        if given.get("embedding"):
            embedding = units.gene_table(given.embedding)
        kept = units.at_most(
            cells, settings["max_cells"], job.generator(params.seed, "tis", params.name, layer, "cells")
        )
        if held_out is not None:
            held_out = held_out.take(kept)
        untrained = None if untrained is None else untrained[kept]
        cells, columns, present = cells.take(kept), units.rows_of(columns, kept), present[kept]
        evaluation = table.Evaluation(
            cells, present, settings, seed=params.seed, name=f"{params.name} {layer}", threads=threads,
            embedding=embedding, held_out=held_out,
        )  # fmt: skip
        scores, null, summary = table.evaluate(evaluation, columns, layer, untrained)
        store.write_table(snakemake.output.units, scores, provenance=origin)
        store.write_table(snakemake.output.null, null, provenance=origin)
        store.write_json(snakemake.output.summary, {"units": params.name, **summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

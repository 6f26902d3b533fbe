"""Rule classify_cells: cell types told by one representation, with learning curve and null."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.gene_text import classification
        from interptfm.tis import units

        given, params, outputs = snakemake.input, snakemake.params, snakemake.output
        settings, source = dict(params.gene_text), dict(params.source)
        origin = job.provenance(snakemake, gene_text=settings, source=source, seed=params.seed)
        representation, task, cells, left_out = classification.open_task(
            units.listed(given.cells), source, units.listed(given.get("representation", [])), settings,
            dict(params.donors), float(params.guard_um), params.seed,
        )  # fmt: skip
        spaces = classification.prepared(representation, task)
        predictions = classification.classify(spaces, task, cells)
        store.write_table(outputs.predictions, predictions, provenance=origin)
        store.write_table(outputs.curve, classification.learning_curve(spaces, task), provenance=origin)
        store.write_table(outputs.null, classification.null(spaces, task), provenance=origin)
        summary = {
            "representation": params.name, "n_cells": len(cells.obs), "n_scored": len(predictions),
            "folds": len(task.folds), "types": task.names, "rare": [task.names[i] for i in task.rare],
            "types_left_out": left_out, "provenance": origin,
        }  # fmt: skip
        store.write_json(outputs.summary, summary)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

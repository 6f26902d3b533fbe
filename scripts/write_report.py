"""Rule write_report: one self-contained page on the run, its figures also as SVG files.

Every path in ``params.index`` stands in ``input.tables``, too, so that the DAG knows what is read.
"""


def later(given, params):
    """Return what the stages after alignment left, None for a stage that did not run."""
    from interptfm import report

    def named(names, key):
        return dict(zip(names, report.listed(given.get(key, [])), strict=True))

    stages = ("microenvironments", "activity", "crosstalk", "probing", "steering", "evidence", "gene_text")
    found = dict.fromkeys(stages)
    if given.get("tis"):
        found["microenvironments"] = report.read_microenvironments(
            params.tis,
            given.tis,
            params.regions,
            given.regions,
            report.listed(given.tissue),
            given.get("unit_recovery", []),
        )
    if given.get("activity"):
        found["activity"] = named(params.activity, "activity")
    if given.get("crosstalk"):
        found["crosstalk"] = report.read_crosstalk(
            named(params.crosstalk, "crosstalk"),
            params.samples,
            report.listed(given.crosstalk_sections),
            given.get("pair_recovery", []),
        )
    if given.get("probes"):
        found["probing"] = report.read_probing(params.probes, given.cosines, given.sparse)
    if given.get("steering") or given.get("towards"):
        found["steering"] = report.read_steering(
            named(params.steering, "steering"),
            named(params.towards, "towards"),
            named(params.steering_recovery, "steering_recovery"),
        )
    if given.get("evidence"):
        found["evidence"] = named(params.evidence, "evidence")
    if given.get("gene_text"):
        found["gene_text"] = report.read_gene_text(params.gene_text_index, params.gene_text)
    return found


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import report, store

        given, params = snakemake.input, snakemake.params
        undeclared = report.undeclared(params.index, given.tables)
        if undeclared:
            raise ValueError(f"params.index reads {undeclared[0]}, which is no input of the rule")
        run = report.read(
            params.index,
            name=params.run,
            config=params.config,
            samples=params.samples,
            simulated=params.simulated,
            qc=report.listed(given.qc),
            qc_figures=report.listed(given.qc_figures),
            query=given.query,
            terms=given.terms,
            model_metrics=given.get("model_metrics") or None,
            model_training=given.get("model_training") or None,
            recovery_files=report.listed(given.get("recovery", [])),
            curve=given.get("curve") or None,
            headline=given.get("headline") or None,
            reading=dict(zip(params.reading, report.listed(given.reading), strict=True)),
            absorption=dict(zip(params.layers, report.listed(given.get("absorption", [])), strict=False)),
            has_graph=params.has_graph,
            stability=report.listed(given.get("stability", [])),
            frontier=given.get("frontier") or None,
            systems=given.get("systems") or None,
            mofa=report.listed(given.get("mofa", [])),
            models=next(iter(report.listed(given.get("models", []))), None),
            **later(given, params),
            atlas=params.atlas,
            provenance=job.provenance(snakemake),
        )
        html, figures = report.build(run)
        with store.atomic_folder(snakemake.output.figures) as folder:
            for name, text in figures.items():
                (folder / name).write_text(text, encoding="utf-8")
        with store.atomic(snakemake.output.report) as path:
            path.write_text(html, encoding="utf-8")


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

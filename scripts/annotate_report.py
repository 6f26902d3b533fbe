"""Rule annotate_report: a small page on annotated cells."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.annotate import page

        given, params = snakemake.input, snakemake.params
        html = page.build(store.read_h5ad(given.cells), params.name)
        with store.atomic(snakemake.output.report) as path:
            path.write_text(html, encoding="utf-8")


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule fetch_gene_texts: full names and summaries of a species' genes from NCBI Gene, with their record."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm import store
        from interptfm.gene_text import ncbi, texts

        params = snakemake.params
        found, records = ncbi.download(params.summaries, params.genes, int(params.taxon), params.work)
        texts.write_texts(snakemake.output.texts, found)
        # Beside the data and no output of the rule: texts placed by hand have none.
        store.write_json(Path(snakemake.output.texts).with_suffix(".fetch.json"), records)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

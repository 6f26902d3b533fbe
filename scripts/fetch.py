"""Rules fetch_section, fetch_file, fetch_by_hand: public data of the manifest, downloaded and checked."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import fetch

        params = snakemake.params
        fetch.fetch(fetch.Item(**params.item), list(snakemake.output), params.work)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

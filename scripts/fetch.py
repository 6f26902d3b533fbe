"""Rules fetch_section, fetch_file, fetch_by_hand: public data of the manifest, downloaded and checked."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import fetch, store

        item = fetch.Item(**snakemake.params.item)
        record = fetch.fetch(item, item.files(snakemake.params.data_root), snakemake.params.work)
        store.write_json(snakemake.output.record, record)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

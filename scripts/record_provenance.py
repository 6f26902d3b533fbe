"""Rule record_provenance: what made the run, with times, machine and digests of all that it wrote."""

from pathlib import Path


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import provenance, store

        params, target = snakemake.params, Path(snakemake.output.record)
        # How and where a run happens reruns nothing, hence no param; the record says it all the same.
        elsewhere = {key: snakemake.config[key] for key in params.left_out}
        record = provenance.collect(
            Path(snakemake.scriptdir).parent,
            target.parent,
            {**elsewhere, **params.config},
            snakemake.input.get("given", []),
            elsewhere["environments"],
            snakemake.input.environment_files,
        )
        store.write_json(target, record)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

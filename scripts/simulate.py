"""Rule simulate: CosMx flat files of a simulated tissue, and the truth behind them."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        from interptfm.simulate import read_design, simulate, write_section, write_truth

        design = read_design(
            snakemake.input.obo,
            snakemake.input.gaf,
            snakemake.input.programs,
            snakemake.input.panel,
            snakemake.input.pairs,
        )
        samples = list(snakemake.params.samples)
        settings = {key: value for key, value in snakemake.params.settings.items() if key != "enabled"}
        simulation = simulate(settings, samples, snakemake.params.seed, design)
        for sample, counts in zip(samples, snakemake.output.counts, strict=True):
            write_section(Path(counts).parent, sample, simulation.sections[sample])
        provenance = job.provenance(snakemake, simulate=settings)
        write_truth(Path(snakemake.output.truth[0]).parent, simulation, provenance)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

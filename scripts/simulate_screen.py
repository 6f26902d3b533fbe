"""Rule simulate_screen: a knock-down screen in the simulated tissue's world, its truth apart."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm.simulate import perturb, read_design

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        design = read_design(given.obo, given.gaf, given.programs, given.panel, given.pairs)
        screen = perturb.simulate_screen(design, params.seed, params.strength, dict(params.screen))
        origin = job.provenance(snakemake, screen=dict(params.screen), strength=params.strength)
        perturb.write_screen(output.screen, output.cells, output.targets, screen, origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

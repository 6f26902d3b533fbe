"""Rule simulate_reference: dissociated cells of the simulated tissue's types, for systems that map them."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.simulate import read_design
        from interptfm.simulate.reference import simulate_reference

        given, params = snakemake.input, snakemake.params
        design = read_design(given.obo, given.gaf, given.programs, given.panel, given.pairs)
        store.write_h5ad(snakemake.output.reference, simulate_reference(design, params.seed, params.strength))


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

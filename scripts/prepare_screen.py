"""Rule prepare_screen: perturbation data read and split, and the terms of every target."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd

        from interptfm import ontology, store
        from interptfm.steering import directions, reading
        from interptfm.steering.screen import write_screen

        given, params = snakemake.input, snakemake.params
        chosen = dict(params.steering)
        paths = [given.screen] if isinstance(given.screen, str) else list(given.screen)
        screen = reading.read_screen(
            paths, chosen["column"], chosen["control"], job.generator(params.seed, "steering", "split"),
            own=params.own, min_genes=params.min_genes, min_cells=chosen["min_cells"],
        )  # fmt: skip
        annotated = store.read_table(given.evidence)
        genes = store.read_table(given.genes)["gene"].astype(str).tolist()
        # Targets outside the panel have no token, but may be annotated.
        if params.ontology and set(screen.targets) - set(genes):
            panel = list(dict.fromkeys([*genes, *screen.targets]))
            wide = {**params.ontology, "min_genes": 1, "max_fraction": 1.0}
            files = {role: given.get(role) for role in ("obo", "gaf", "table")}
            annotated = ontology.build(panel, wide, **files).evidence
        terms = directions.terms_of(screen.targets, store.read_table(given.terms), annotated)
        rows = [(target, term) for target, names in terms.items() for term in names]
        origin = job.provenance(snakemake, steering=chosen, seed=params.seed)
        write_screen(snakemake.output.screen, screen)
        frame = pd.DataFrame(rows, columns=["target", "term_id"], dtype=str)
        store.write_table(snakemake.output.targets, frame, provenance=origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

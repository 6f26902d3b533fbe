"""Rule list_interactions: the ligands and receptors that all systems of communication are given."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import store
        from interptfm.comparators import communication, liana_plus, status
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        origin = job.provenance(snakemake, interactions=params.interactions, resource=params.resource)

        def listing():
            genes = store.panel(store.read_h5ad(path).var_names for path in units.listed(given.cells))
            if params.interactions and not given.get("interactions"):
                raise status.Skipped(
                    f"found no file {params.interactions} below data_root, expected the table of "
                    "comparators.communication.interactions"
                )
            if params.interactions:
                known = communication.read_interactions(given.interactions)
            else:
                known = liana_plus.resource(params.resource)
            inside = communication.in_panel(known, genes)
            return inside, {"n_known": len(known), "n_in_panel": len(inside), "genes": len(genes)}

        table, summary = status.attempt("interactions", None if params.interactions else "liana", listing)
        empty = communication.empty()[["ligand", "receptor"]]
        store.write_table(snakemake.output.table, empty if table is None else table, provenance=origin)
        store.write_json(snakemake.output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

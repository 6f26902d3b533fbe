"""Rule ligand_activity: NicheNet's ligand activity against the user's ligand–target matrix."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import numpy as np
        import pandas as pd
        from scipy import sparse

        from interptfm import store
        from interptfm.comparators import nichenet, status
        from interptfm.tis import judges, units

        given, params, output = snakemake.input, snakemake.params, snakemake.output
        settings = dict(params.nichenet)
        origin = job.provenance(snakemake, nichenet=settings, seed=params.seed)

        def scoring():
            status.require(given.get("matrix"), "ligand–target matrix", "nichenet.matrix", params.matrix)
            matrix = nichenet.read_matrix(given.matrix)
            cells = units.read_cells(units.listed(given.cells))
            graphs = [store.read_h5ad(path) for path in units.listed(given.graphs)]
            place = {name: i for i, name in enumerate(cells.obs.index)}
            kept = np.array([place[name] for graph in graphs for name in graph.obs_names])
            chosen = cells.take(kept)
            logged = np.asarray(judges.log_normalise(chosen.counts).todense())
            neighbours = sparse.block_diag(
                [graph.obsp["spatial_connectivities"] for graph in graphs], format="csr"
            )
            table = nichenet.analyse(
                logged, chosen.genes, chosen.types, chosen.section, neighbours, matrix, settings, params.seed
            )
            data = f"{len(kept)} cells, {matrix.shape[1]} ligands × {matrix.shape[0]} targets given"
            return table, {"data": data, "headline": nichenet.headline(table, settings["max_q"])}

        table, summary = status.attempt("nichenet", None, scoring)
        empty = pd.DataFrame(columns=list(nichenet.COLUMNS))
        store.write_table(output.table, empty if table is None else table, provenance=origin)
        store.write_json(output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

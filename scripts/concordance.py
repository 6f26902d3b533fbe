"""Rule concordance: which channel edges of crosstalk have ligand–receptor support, by system."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        import pandas as pd
        from scipy import sparse

        from interptfm import store
        from interptfm.comparators import concordance, status
        from interptfm.tis import units

        given, params = snakemake.input, snakemake.params
        origin = job.provenance(snakemake, max_q=params.max_q, system_max_q=params.system_max_q)

        def comparing():
            tables = [store.read_table(path) for path in units.listed(given.found)]
            found = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
            if found.empty:
                raise status.Skipped("no system of cell–cell communication ran, see their rows")
            genes = concordance.channel_genes(
                store.read_table(given.concepts),
                store.read_table(given.terms)["term_id"].astype(str).tolist(),
                sparse.load_npz(given.membership),
                store.read_table(given.genes)["gene"].astype(str).tolist(),
            )
            table = concordance.compare(
                store.read_table(given.pairs), found, genes, params.max_q, params.system_max_q
            )
            if table.empty:
                raise status.Skipped("crosstalk tested no channel edge, see crosstalk/summary.json")
            shares = concordance.summarise(table)
            data = f"{len(table.groupby(list(concordance.EDGE)))} channel edges"
            return (table, shares), {"data": data, "headline": concordance.headline(shares)}

        result, summary = status.attempt("concordance", None, comparing)
        table, shares = concordance.empty() if result is None else result
        store.write_table(snakemake.output.table, table, provenance=origin)
        store.write_table(snakemake.output.shares, shares)
        store.write_json(snakemake.output.summary, {**summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

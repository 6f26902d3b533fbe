"""Rule build_concepts: ontology terms over the panel, with membership, graph and evidence."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import ontology

        given = snakemake.input
        settings = snakemake.params.ontology
        cells = [given.cells] if isinstance(given.cells, str) else list(given.cells)
        concepts = ontology.build(
            ontology.panel_of_cells(cells),
            settings,
            obo=given.get("obo"),
            gaf=given.get("gaf"),
            table=given.get("table"),
        )
        ontology.save(
            concepts,
            **{key: snakemake.output[key] for key in ontology.OUTPUTS},
            provenance=job.provenance(snakemake, ontology=dict(settings)),
        )


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule write_atlas: a static site to look every feature up in.

Every path in ``params.spaces`` stands in ``input.tables`` or ``input.aggregates``, too, so that the DAG knows
what is read.
"""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from interptfm import atlas, store

        given, params = snakemake.input, snakemake.params
        settings = dict(params.atlas)
        origin = job.provenance(snakemake, atlas=settings, seed=params.seed)
        steering = None
        if given.get("steering"):
            effects, summary = given.steering
            steering = {"effects": store.read_table(effects), "summary": store.read_json(summary)}
        sections = [
            atlas.section(*paths, settings["spots"]) for paths in zip(given.cells, given.regions, strict=True)
        ]
        with store.atomic_folder(snakemake.output.atlas) as folder:
            site = atlas.Site(folder, sections, store.read_table(given.terms), settings, params.seed)
            for space in job.progress(params.spaces, "atlas, dictionaries and layers"):
                clamped = steering if space["clamped"] else None
                site.add(atlas.read(space["dictionary"], space["layer"], space, clamped), space["aggregates"])
            site.finish(params.run)
            store.write_json(folder / "provenance.json", origin)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

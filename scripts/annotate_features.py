"""Rule annotate_features: a user's cells through the model and dictionary of the finished run."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import activations, features, integrity, store
        from interptfm.annotate import encoding, query

        params, device = snakemake.params, job.device()
        files = params.run
        integrity.check([files[role] for role in ("args", "vocab", "model", "cfg", "weights", "maximum")])
        metadata, layer = store.read_json(files["cfg"])["metadata"], int(files["layer"])
        stores = sorted(Path(files["folder"], "activations").glob("*/*.zarr.zip"))
        settings = encoding.extraction(params.extraction, stores)
        model = activations.load_model(Path(files["model"]).parent, device, settings["backend"])
        encoding.check_origin(files["cfg"], metadata, model, settings["mode"])
        panel = store.read_table(files["genes"])["gene"].astype(str).tolist()
        cells = query.read(snakemake.input.cells, params.annotate, panel)
        dictionary = features.Dictionary(Path(files["weights"]).parent, device)
        found, read = encoding.encode(
            cells,
            model,
            dictionary,
            np.load(files["maximum"]),
            layer,
            settings,
            params.name,
            params.work,
            device,
        )
        origin = job.provenance(snakemake, annotate=params.annotate, extraction=settings, run=files["digest"])
        attributes = {"genes_read": read, "layer": layer, "provenance": origin}
        features.write_cells(snakemake.output.features, found, attributes)


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

"""Rule steer: steering along concepts and everything it is compared with, judged by perturbation data."""


def main(snakemake):
    from interptfm import job

    with job.run(snakemake):
        from pathlib import Path

        import numpy as np

        from interptfm import activations, features, probes, store
        from interptfm.sae import format as dictionaries
        from interptfm.steering import analysis, directions, experiment
        from interptfm.steering.screen import load_screen

        given, params, device = snakemake.input, snakemake.params, job.device()
        chosen, layer, kind = dict(params.steering), int(params.layer), params.steering["direction"]

        def listed(paths):
            return [paths] if isinstance(paths, str) else list(paths)

        def evidence(weights, documents, moments=None):
            model = activations.load_model(Path(weights).parent, device)
            found = [probes.read_probes(Path(path).parent, model.digest) for path in listed(documents)]
            return analysis.evidence_of(model, found, kind, layer, moments)

        origin = job.provenance(snakemake, steering=chosen, layer=layer, seed=params.seed)
        genes, samples = features.samples_of([store.read_h5ad(path) for path in listed(given.cells)])
        moments = directions.moments_of(listed(given.activations), samples, layer, len(genes))
        screen = load_screen(given.screen)
        annotated = store.read_table(given.targets).groupby("target")["term_id"].agg(list).to_dict()
        of_target = {target: annotated.get(target, []) for target in screen.targets}
        dictionary = clamped = None
        if given.get("features"):
            dictionary = dictionaries.load(Path(given.dictionary_weights).parent, device)
            clamped = analysis.clamped_features(of_target, store.read_table(given.features))
        plan = experiment.Plan(
            layer, np.array(chosen["doses"], float), chosen["cells"], chosen["random"]["directions"],
            chosen["random"]["cells"], chosen["batch_tokens"], device,
        )  # fmt: skip
        untrained = given.get("untrained")
        result = analysis.analyse(
            screen, evidence(given.weights, given.probes, moments), of_target, plan, chosen, params.seed,
            untrained=evidence(untrained[2], given.untrained_probes) if untrained else None,
            dictionary=dictionary, features=clamped,
        )  # fmt: skip
        for name in ("effects", "doses", "genes", "ablation", "activity", "expression", "cells"):
            store.write_table(snakemake.output[name], getattr(result, name), provenance=origin)
        store.write_json(snakemake.output.summary, {**result.summary, "provenance": origin})


if "snakemake" in globals():
    main(snakemake)  # noqa: F821

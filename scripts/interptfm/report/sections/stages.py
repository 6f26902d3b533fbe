"""What each stage before the alignment did: cells, model, dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from interptfm.report import figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.run import Run
from interptfm.report.sections.common import main_first, model_kind, settings


def quality(run: Run) -> Section:
    """QC of each sample, as measured at ingest."""
    by_sample = {}
    for sample, frame in run.qc.items():
        # Cells by FOV fill pages where there are many; the TSV of each figure has them.
        shown = frame[frame["quantity"] != "cells by FOV"].fillna({"group": ""})
        by_sample[sample] = shown.set_index(["quantity", "group"])["value"]
    wide = pd.concat(by_sample, axis=1, sort=False).reset_index()
    for sample in run.samples:
        # Counts and rates share the column: without this, 20 blocks would read 20.0.
        values = [int(value) if float(value).is_integer() else value for value in wide[sample]]
        wide[sample] = pd.Series(values, dtype=object)
    drawn = [
        Figure(
            f"qc-{sample}",
            f"Quality of sample {sample}",
            run.qc_svg[sample],
            "Kept cells: counts and detected genes a cell, mean counts of genes against negative probes "
            "(genes left of the probes are not above background), cells by type, and the splits, made of "
            "whole blocks; guard cells, too near to another split, are not scored. Nothing is tested here.",
            f"Histograms of counts and genes per cell, means of genes and negative probes, and cells of "
            f"sample {sample} by type and by split.",
            run.qc[sample],
        )
        for sample in run.samples
    ]
    table = Table(
        "qc",
        "Quality control by sample. Counts are molecules of panel genes in kept cells; rate of negative "
        "probes: mean count of a probe over that of a gene.",
        wide,
        {"quantity": "Quantity", "group": "Group", **{sample: sample for sample in run.samples}},
        rows=80,
    )
    return Section("Cells", ["What was read, dropped and kept at ingest."], drawn, [table])


def model(run: Run) -> Section:
    """The model: its kind, its training and its error against predictors without a transformer."""
    metrics = run.model_metrics
    if "validation" not in metrics:
        prose = (
            f"The model is {model_kind(metrics)} ({run.config['model']['embeddings']}). What needs a model "
            "that runs (its errors, loss recovered, static gene embeddings, steering) is left out."
        )
        return Section("Model", [prose])
    held_out = metrics["validation"]
    baselines = {
        "gene mean": held_out["baseline_error"]["gene_mean"],
        "gene mean + cell offset": held_out["baseline_error"]["gene_and_cell"],
    }
    rows = [("baseline: " + name, error) for name, error in baselines.items()]
    rows += [(f"model, {HEADS[head]}", error) for head, error in held_out["error"].items()]
    errors = pd.DataFrame(rows, columns=["predictor", "error"])
    errors["explained"] = 1 - errors["error"] / baselines["gene mean"]
    table = Table(
        "model-errors",
        f"Error on {number(held_out['masked_tokens'])} masked tokens of {number(held_out['cells'])} held-out "
        "cells (squared bins), and the share of the gene means' error that is explained.",
        errors,
        {"predictor": "Predictor", "error": "Squared error", "explained": "Explained"},
    )
    prose = [f"The run used {model_kind(metrics)}, with {number(metrics['n_parameters'])} parameters."]
    drawn = []
    curves = run.model_training
    if len(curves) > 1:
        panels = [
            {
                "title": f"Predicted {HEADS[head]}",
                "label": "squared error (bins²)",
                "series": {"training": f"train_{head}", "validation": f"validation_{head}"},
                "baselines": baselines,
            }
            for head in held_out["error"]
        ]
        drawn.append(
            Figure(
                "model-training",
                "Training of the model",
                figures.curves("model-training", curves, panels, "epoch", "epoch"),
                "Masked-expression error by epoch on training and on held-out validation blocks. Dotted and "
                "dash-dotted: predicting each gene's mean, and the mean plus the cell's offset, on the same "
                "masked tokens. Only below them has the model learnt how genes go together. Early stopping "
                f"kept epoch {held_out['best_epoch']} by the validation error.",
                "Line charts of training and validation error by epoch with two level baselines.",
                curves,
            )
        )
    else:
        prose.append("It was not trained here, so there is no training curve.")
    more = settings("model-metrics", "Model: architecture, genes and all metrics", metrics)
    return Section("Model", prose, drawn, [table, more])


HEADS = {"token": "from gene tokens", "cls": "from the <cls> token"}


def dictionaries(run: Run) -> Section:
    """Dictionaries: training curves of the main one, reconstruction and sparsity of all."""
    trained = [entry for entry in run.entries if entry.metrics is not None]
    rows = []
    for entry in trained:
        known = {"source": run.label(entry), "dictionary": entry.representation, "layer": entry.layer}
        if entry.summary is not None:
            known["n_features"] = entry.summary["n_features"]
        rows.append({**known, **dict(_scalars(entry.metrics))})
    table = pd.DataFrame(rows).sort_values(["source", "layer"], key=main_first, ignore_index=True)
    drawn = []
    mine = [e for e in trained if run.label(e) == "SAE" and e.training is not None and len(e.training)]
    if mine:
        frame = pd.concat([e.training.assign(layer=e.layer) for e in mine], ignore_index=True)
        x = "tokens" if "tokens" in frame else "step"
        wanted = (("fvu", "Unexplained variance", "FVU"), ("l0", "Active features", "features a token"),
                  ("dead", "Dead features", "features"))  # fmt: skip
        panels = [
            {"title": title, "label": label, "by": "layer", "column": column, "from_zero": True}
            for column, title, label in wanted
            if column in frame
        ]
        drawn.append(
            Figure(
                "dictionary-training",
                f"Training of the dictionary {run.dictionary}",
                figures.curves("dictionary-training", frame, panels, x, x),
                "One line a layer. FVU is the fraction of the activations' variance left unexplained (0 is "
                "perfect, 1 is no better than the mean), L0 the number of active features a token. Measured "
                "on training batches; the table has validation and test blocks. Nothing is tested here.",
                "Line charts of FVU, active features and dead features against training tokens by layer.",
                frame,
            )
        )
    columns = {name: heading for name, heading in QUALITY.items() if name in table}
    quality_table = Table(
        "dictionaries",
        "Dictionaries by layer. Quality on validation and test blocks, which were not trained on. FVU: "
        "fraction of variance unexplained; cosine: of activation and reconstruction; L0: active features a "
        "token; dead: share of features that never fire there; dense: share that fire on more than 10 % of "
        "tokens. SAE is the main arm's, control arms carry the arm's name. All metrics are in the TSV.",
        table,
        columns,
        rows=60,
    )
    prose = ["A dictionary is trained by layer, over the activations of all samples together."]
    return Section("Dictionaries", prose, drawn, [quality_table])


def _scalars(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            rows += [] if key in {"provenance", "settings", "inputs"} else _scalars(item, f"{name}_")
        elif isinstance(item, (int, float, str, bool)):
            rows.append((name, item))
    return rows


QUALITY = {
    "source": "Source", "dictionary": "Dictionary", "layer": "Layer", "n_features": "Features",
    "validation_fvu": "Validation FVU", "test_fvu": "Test FVU", "test_cosine": "Test cosine",
    "test_l0": "Test L0", "test_dead": "Test dead", "test_dense": "Test dense",
}  # fmt: skip

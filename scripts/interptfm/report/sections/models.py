"""Models beside one another: the dictionary of every arm with a model of its own, against its own null."""

from __future__ import annotations

from interptfm.report.page import Section, Table
from interptfm.report.run import Run
from interptfm.report.sections.common import interval

HEADINGS = {
    "arm": "Arm", "model_name": "Model", "layer": "Layer", "d_in": "d", "n_features": "Features",
    "measure": "Measure", "n": "Terms", "mean": "Mean", "null_mean": "Null mean", "excess": "Excess",
    "interval": "95 % interval", "p": "p", "verdict": "Verdict",
}  # fmt: skip


def models(run: Run) -> Section | None:
    """The table of models; None where all arms run the same kind of model."""
    if run.models is None:
        return None
    other = run.models[run.models["backend"] == "files"]
    named = ", ".join(
        dict.fromkeys(f"{arm} ({name})" for arm, name in zip(other["arm"], other["model_name"], strict=True))
    )
    prose = [
        "The same dictionaries on the states of other models and of control arms, over all terms. Judge a "
        "model by its excess over its own permuted membership: what its dimensions and sparsity alone reach "
        f"differs from model to model. States read from files: {named}."
    ]
    caption = (
        "Alignment by arm and layer on test blocks; interval: bootstrap of the excess over terms; p: the "
        "mean against permuted membership with the whole selection repeated."
    )
    return Section(
        "Models", prose, tables=[Table("models", caption, interval(run.models), HEADINGS, rows=80)]
    )

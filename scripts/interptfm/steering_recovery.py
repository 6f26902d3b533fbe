"""Evaluation on the simulated screen: does steering along concepts win, and if not, where is it lost?

Reads the simulation's truth; nothing that steers imports this module.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from interptfm.errors import InputError

METHODS = ("concept, all tokens", "concept, gene's token", "concept, <cls>")
OTHERS, CEILING = "another gene's concepts, all tokens", "split half (ceiling)"
INPUT, UNTRAINED = "input value alone", "untrained: "
MEASURES = {"centroid_accuracy": "centroid accuracy", "overlap": "signed overlap"}


def decline_auroc(predicted: np.ndarray, members: np.ndarray) -> float:
    """AUROC of a program's genes against all others by how much they are predicted to decline."""
    usable = np.isfinite(predicted)
    inside = members & usable
    n, m = int(inside.sum()), int((usable & ~members).sum())
    if not n or not m:
        return float("nan")
    rank = rankdata(-predicted[usable])
    return float((rank[inside[usable]].sum() - n * (n + 1) / 2) / (n * m))


def evaluate(
    effects: pd.DataFrame,
    genes: pd.DataFrame,
    ablation: pd.DataFrame,
    expression: pd.DataFrame,
    cells: pd.DataFrame,
    targets: pd.DataFrame,
    program_genes: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare steering with what was knocked down.

    Parameters
    ----------
    effects, genes, ablation, expression
        Tables of :func:`interptfm.steering.analysis.analyse`.
    cells, targets
        Truth of the screen: efficacy and activities of each cell; regulator and program.
    program_genes
        Truth of the tissue: which genes follow which program.

    Returns
    -------
    regulators, claims
        One row a regulator and position: measures beside random directions, other genes' concepts, the
        input change and the ceiling; whether it wins over the first two. One row a claim: in how many
        regulators it wins, and the ablation by probe, layer, position, dose and model.

    Raises
    ------
    InputError
        If no regulator of the truth was judged.
    """
    judged = targets[targets["target"].isin(effects["target"])]
    if not len(judged):
        raise InputError("truth: found no regulator that was judged, expected those of the run's screen")
    at = effects.set_index(["method", "target"])
    rows = []
    for each in judged.itertuples():
        own = cells[cells["perturbation"] == each.target]
        control = cells[cells["efficacy"] == 0]
        activity = f"activity:{each.term_id}"
        program = set(program_genes.loc[program_genes["term_id"] == each.term_id, "gene"]) - {each.target}
        found = expression[(expression["target"] == each.target) & (expression["gene"] != each.target)]
        members = found["gene"].isin(program).to_numpy()
        shared = {
            "target": each.target, "program": each.program, "efficacy": float(own["efficacy"].mean()),
            "activity_lost": float(1 - own[activity].mean() / control[activity].mean()),
            "program_auroc_observed": decline_auroc(found["observed"].to_numpy(float), members),
            "program_auroc_steered": decline_auroc(found["predicted"].to_numpy(float), members),
        }  # fmt: skip
        for method in METHODS:
            if (method, each.target) not in at.index:
                continue
            mine, row = at.loc[(method, each.target)], {**shared, "method": method}
            wins = []
            for name in MEASURES:
                row[name], row[f"random_{name}"] = float(mine[name]), float(mine[f"null_{name}"])
                row[f"p_{name}"] = float(mine[f"p_{name}"])
                for label, other in (("others", OTHERS), ("input", INPUT), ("ceiling", CEILING)):
                    known = (other, each.target) in at.index
                    row[f"{label}_{name}"] = float(at.loc[(other, each.target), name]) if known else np.nan
                beaten = [row[f"random_{name}"], row[f"others_{name}"]]
                wins.append(all(row[name] > value for value in beaten if np.isfinite(value)))
            row["wins"] = all(wins)
            rows.append(row)
    regulators = pd.DataFrame(rows)
    return regulators, _claims(regulators, effects, ablation)


def _claims(regulators: pd.DataFrame, effects: pd.DataFrame, ablation: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, object]] = []

    def claim(text: str, value: float, n: int, wanted: str = "reported", met: str = "") -> None:
        rows.append({"claim": text, "value": value, "n": n, "wanted": wanted, "met": met})

    for method, part in regulators.groupby("method", sort=False):
        n = len(part)
        wins = int(part["wins"].sum())
        claim(
            f"{method}: regulators better than random and other genes' directions on both measures", wins, n,
            "more than half", "yes" if wins > n / 2 else "no",
        )  # fmt: skip
        for name, words in MEASURES.items():
            claim(f"{method}: {words}", part[name].mean(), n)
            claim(f"{method}: {words} of random directions", part[f"random_{name}"].mean(), n)
            claim(f"{method}: regulators with p < 0.05 on {words}", int((part[f"p_{name}"] < 0.05).sum()), n)
    for method in (OTHERS, INPUT, CEILING, *(UNTRAINED + m for m in METHODS)):
        part = effects[effects["method"] == method]
        for name, words in MEASURES.items() if len(part) else ():
            claim(f"{method}: {words}", part[name].mean(), len(part))
    for (kind, layer, position), part in ablation.groupby(["kind", "layer", "position"]):
        where = f"ablation, {kind} probes, layer {layer}, {'all tokens' if position == 'all' else '<cls>'}"
        claim(f"{where}: centroid accuracy", part["centroid_accuracy"].mean(), len(part))
        claim(
            f"{where}: the same at each target's own best dose", part["best_dose_accuracy"].mean(), len(part)
        )
        claim(f"{where}: signed overlap", part["overlap"].mean(), len(part))
        claim(f"{where}: cosine at each target's own best dose", part["best_dose_cosine"].mean(), len(part))
    return pd.DataFrame(rows)

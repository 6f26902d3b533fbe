"""The chain of evidence: how much passes each link, and how much would where nothing is to be found."""

from __future__ import annotations

from typing import Any

import pandas as pd

from interptfm.report import evidence_figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.run import Run

LINKS = {
    "compartment": "compartment", "channel": "channel edge", "stain": "stain",
    "stability": "stable over seeds", "steering": "steering",
}  # fmt: skip
LEVEL = 0.05
GRADES = ("strong", "moderate", "exploratory")
NULLS = ("permuted membership", "exchanged terms")
SIZES = {"firing": "features that fire", "best of a term": "best of a term", "alignment": "aligned with it"}
ROWS = {
    "feature": "Feature", "name": "Term", "grade": "Grade", "f1": "F1", "lift": "Lift", "q": "q",
    "compartment_text": "Compartment", "compartment_q": "q, compartment", "channel_text": "Channel edge",
    "channel_q": "q, edge", "stain_text": "Stain", "stain_q": "q, stain", "stability_status": "Over seeds",
    "steering_text": "Steering", "steering_q": "q, steering",
}  # fmt: skip
BESIDE = {
    "grade": "Grade", "rows": "Rows", "null": "Beside", "mean": "Mean rows", "range": "Range",
    "p": "p", "p_min": "Least p",
}  # fmt: skip
STEPS = {
    "chain": "Chain", "step": "Step", "status": "State", "features": "Features", "rows": "Rows",
    "lo": "Least", "hi": "Most", "alone_features": "Alone, features", "alone_rows": "Alone, rows",
}  # fmt: skip


def evidence(run: Run) -> Section | None:
    """The funnel, the grades beside their nulls, and the best rows; None where no chain was collected."""
    if run.evidence is None:
        return None
    tables, summary = run.evidence
    rows, funnel, rules = tables["evidence"], tables["funnel"], run.config["evidence"]
    counts = ", ".join(f"{number(summary['grades'][grade])} {grade}" for grade in GRADES)
    states = summary["links"].items()
    missing = [f"{LINKS[link]} ({state})" for link, state in states if state != "available"]
    prose = [
        f"Each of {number(summary['n_rows'])} pairs of a feature ({summary['dictionary']}, layer "
        f"{summary['layer']}) and the term that it is interpretable for: {counts}. {_rules(rules['grades'])} "
        "A link that is missing never counts as support"
        + (f"; missing from all rows: {', '.join(missing)}." if missing else "."),
        _untrained(summary["untrained"]),
        "Channel edges and steering are of terms, and an edge of a channel is shared by all terms in it; "
        "compartment and stain are of features. Terms exchanged among the interpretable pairs keep how "
        f"common each link is: only what exceeds them says that links come together. {_together(summary)}",
    ]
    return Section("Evidence", prose, [_funnel(funnel, summary)], _tables(rows, funnel, summary))


def _rules(grades: dict[str, Any]) -> str:
    words = []
    for grade in GRADES[:-1]:
        rule = grades[grade]
        required = " and ".join(LINKS[link] for link in rule["required"])
        asked = [required] if required else []
        words.append(
            ", among them ".join([f"{grade}: {rule['at_least']} links or more beyond alignment", *asked])
        )
    return f"{'; '.join(words).capitalize()}; exploratory: the others."


def _untrained(found: dict[str, Any]) -> str:
    if found["status"] != "compared":
        return "The untrained arm: not available (none configured, or it lacks the layer)."
    both = ", ".join(LINKS[link] for link in found["links"]) or "none but alignment"
    rows = sum(found[grade]["rows"] for grade in GRADES)
    real = sum(found[grade]["real_rows"] for grade in GRADES)
    return (
        f"The untrained arm has {number(rows)} interpretable pairs against {number(real)}; beyond alignment "
        f"it is compared over the links that both have ({both})."
    )


def _together(summary: dict[str, Any]) -> str:
    found = summary["exchanged terms"]["strong"]
    more = "more than" if found["p"] < LEVEL else "not established as more than"
    return (
        f"Here {number(found['rows'])} rows are strong, {more} the {number(found['mean'])} "
        f"({found['lo']} to {found['hi']}) with exchanged terms (p = {number(found['p'], 'p')})."
    )


def _funnel(funnel: pd.DataFrame, summary: dict[str, Any]) -> Figure:
    states = {link: "" if s == "available" else f"\n({s})" for link, s in summary["links"].items()}
    steps = {**SIZES, **{link: f"+ {label}{states[link]}" for link, label in LINKS.items()}}
    drawn = funnel[funnel["kind"] != "grade"]
    return Figure(
        "evidence-funnel",
        "The chain of evidence, real and where there is nothing",
        evidence_figures.funnel("evidence-funnel", drawn, steps),
        "Features that pass, link after link (left), and each link alone among the best features of all "
        "terms (right). Real features should be far right of permuted membership and of the untrained arm; "
        "exchanged terms keep the alignment and should fall behind at later links, if these come together. A "
        "link that alone passes as many by chance separates nothing by itself. "
        f"{number(summary['worlds'])} draws of each null. Alignment is tested against permuted membership, "
        "compartment and stain by flipping the signs of blocks, edges by toroidal shifts, steering against "
        "random directions; all q are Benjamini–Hochberg. Links that a chain lacks have no mark.",
        "Marks of each chain on a scale of features, one line a link.",
        drawn,
    )


def _tables(rows: pd.DataFrame, funnel: pd.DataFrame, summary: dict[str, Any]) -> list[Table]:
    beside = pd.DataFrame(
        [
            {
                "grade": grade, "rows": found["rows"], "null": null, "mean": found["mean"],
                "range": f"{found['lo']} to {found['hi']}", "p": found["p"], "p_min": found["p_min"],
            }
            for null in NULLS for grade, found in ((g, summary[null][g]) for g in GRADES)
        ]
    )  # fmt: skip
    return [
        Table(
            "evidence-grades",
            "Rows of each grade beside the two nulls. p is the share of draws with as many rows or more.",
            beside, BESIDE,
        ),
        Table(
            "evidence",
            "Pairs of feature and term, the best supported first. Effects: 2 · (AUC − ½) of the compartment "
            "within blocks; log₂ ratio of the edge; rank correlation with the stain within cell type; "
            "specificity of steering.",
            _in_words(rows), ROWS, rows=25,
        ),
        Table("evidence-steps", "All steps of all chains.", funnel, STEPS, rows=100, folded=True),
    ]  # fmt: skip


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """Add a text of each link: what it measured, or why there is nothing."""
    what = {
        "compartment": ("compartment", "compartment_effect"),
        "channel": ("channel_edge", "channel_log2_ratio"),
        "stain": ("stain", "stain_r"), "steering": (None, "steering_effect"),
    }  # fmt: skip
    found = rows.copy()
    for link, (label, effect) in what.items():
        texts = []
        for row in rows.to_dict("records"):
            state = str(row[f"{link}_status"])
            if state not in ("supported", "not supported"):
                texts.append(state)
                continue
            size = number(float(row[effect]))
            texts.append(f"{row[label]} {size}" if label else size)
        found[f"{link}_text"] = texts
    return found

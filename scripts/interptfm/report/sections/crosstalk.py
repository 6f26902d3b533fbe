"""What neighbouring cells share, which of it is beyond chance, and which way it runs."""

from __future__ import annotations

import pandas as pd

from interptfm.report import crosstalk_figures
from interptfm.report.crosstalk import Crosstalk
from interptfm.report.page import Figure, Section, Table, number, slug
from interptfm.report.run import Run
from interptfm.report.sections.common import interval

CONCEPTS = "concept pair"
NULLS = {
    "shift": "default: toroidal shift within type, residuals",
    "profiles": "profiles shuffled within type and block",
    "uncentred": "toroidal shift, plain z-scores",
    "labels": "labels shuffled, plain z-scores (as published)",
}
SHOWN = 25
FINDING = {
    "source": "Source", "target": "Target", "what": "What", "n_edges": "Edges", "log2_ratio": "log₂ ratio",
    "interval": "95 % interval", "p": "p", "q": "q", "direction": "Direction",
    "sections_replicated": "Sections",
    "log2_ratio_genes": "log₂ ratio, genes", "p_genes": "p, genes",
}  # fmt: skip
CONTRAST = {
    "contrast": "Contrast", "channel": "Channel", "above": "Above", "below": "Below",
    "difference": "Difference",
    "interval": "95 % interval", "p": "p", "q": "q", "p_labels": "p, labels shuffled",
    "sections_replicated": "Sections", "reason": "Not tested",
}  # fmt: skip
RECOVERED = {
    "pair": "Pair", "variant": "Activities", "rank": "Rank", "n_tests": "Of", "z": "z", "p": "p", "q": "q",
    "direction": "Direction", "right": "Right", "r_a": "r of a", "r_b": "r of b", "reason": "Not tested",
}  # fmt: skip

TESTED = (
    "p: toroidal shifts within FOVs among cells of one type, on residuals within type and depth; q: "
    "Benjamini–Hochberg over the tests of a level."
)


def crosstalk(run: Run) -> Section | None:
    """Tests, their nulls and their figures; None where none were made."""
    found = run.crosstalk
    if found is None:
        return None
    settings, summary = run.config["crosstalk"], found.summary
    max_q = settings["max_q"]
    names = dict(zip(run.terms["term_id"].astype(str), run.terms["name"].astype(str), strict=True))
    levels = summary["levels"]
    concepts = levels[CONCEPTS]
    prose = [
        f"Cells are joined within a section ({_graph(summary)}). Activities are centred within cell type and "
        "section, log depth is regressed out, and the activities of one end are shifted on the torus of "
        "their FOV, each cell taking the value of the nearest cell of its own type: so neither types nor "
        "depth nor how smooth an activity is makes a finding.",
        f"Of {number(concepts['n_tests'])} tests \u201ca in type S, b in type R next to it\u201d, "
        f"{number(concepts['n_significant'])} pass q < {max_q:g} ({summary['family']}); "
        f"{number(concepts['n_directed'])} of them have a direction, {number(concepts['n_replicated'])} have "
        "p < 0.05 in two sections or more. The order of source and target is alphabetical; only a direction "
        "says which way it runs: b in R depends on contact with a in S more than the other way round.",
        *[
            f"{item['sample']}: {item['status']}."
            for item in summary["sections"]
            if item["status"] != "tested"
        ],
    ]
    return Section("Crosstalk", prose, _figures(found, names, max_q), _tables(found, names, max_q))


def _graph(summary: dict) -> str:
    made = summary["sections"][0]["graph"]
    known = {"radius_um": "{:g} µm", "k": "k = {}", "mode": "{}", "max_um": "up to {:g} µm",
             "length_um": "ℓ = {:.3g} µm"}  # fmt: skip
    parts = [text.format(made[key]) for key, text in known.items() if key in made]
    return ", ".join([made["builder"], *parts, f"weights {made.get('weights', 'as given')}"])


def _what(rows: pd.DataFrame, names: dict[str, str]) -> pd.Series:
    """Return in words what a row is about: its channel, or both concepts by name."""
    return pd.Series(
        [
            str(row.channel) if row.channel else f"{names.get(row.a, row.a)} / {names.get(row.b, row.b)}"
            for row in rows.astype({"channel": str, "a": str, "b": str}).itertuples()
        ],
        index=rows.index,
        dtype=object,
    )


def _ranked(found: Crosstalk, names: dict[str, str], concepts: bool) -> pd.DataFrame:
    mine = found.pairs[(found.pairs["level"] == CONCEPTS) == concepts]
    mine = mine[mine["p"].notna()].sort_values(["q", "p"], kind="stable").head(200)
    words = mine.astype({"source": str, "target": str, "direction": str})
    return interval(words.assign(what=_what(mine, names)))


def _named(label: str, names: dict[str, str]) -> str:
    for term, text in names.items():
        label = label.replace(term, text)
    return label


def _figures(found: Crosstalk, names: dict[str, str], max_q: float) -> list[Figure]:
    figures = []
    for sample, tables in found.sections.items():
        edges, key = tables["edges"], slug(str(sample))
        columns = {
            c: _named(c.split(":", 1)[1], names).replace(" | ", " with ")
            for c in edges
            if c.startswith(("channel:", "pair:"))
        }
        scored = [c for c in columns if edges[c].gt(0).any()]
        channel = [c for c in scored if c.startswith("channel:")][:1]
        shown = {c: columns[c] for c in channel + [c for c in scored if c.startswith("pair:")][:1]}
        if shown:
            figures.append(
                Figure(
                    f"edges-{key}",
                    f"Edges in {sample}",
                    crosstalk_figures.tissue_edges(f"edges-{key}", tables["cells"], edges, shown),
                    "Edges by score, the stronger the darker: what both ends share of a channel, and the "
                    "pair with the smallest p. Edges of cells without a compartment count as within. Nothing "
                    "is tested here: what lies in patches shows strong edges under the null, too.",
                    "Map of the section with lines between neighbouring cells.",
                    pd.DataFrame([
                        {"score": title, "cross": cross, "edges": len(part), "sum": part[c].sum()}
                        for c, title in shown.items() for cross, part in edges.groupby("cross")
                    ]),
                )
            )  # fmt: skip
    channels = found.pairs[found.pairs["level"] != CONCEPTS]
    channels = channels[channels["log2_ratio"].notna()]
    columns = ["level", "source", "target", "channel", "log2_ratio", "lo", "hi", "p", "q"]
    if len(channels):
        figures.append(
            Figure(
                "channel-heat",
                "Channels between types and compartments",
                crosstalk_figures.channel_heat("channel-heat", channels, max_q),
                "What neighbours share of a channel against the null's mean; a dot where q < "
                f"{max_q:g}. {TESTED} A channel that lies in patches is shared, whatever makes the patches.",
                "Heat maps of pairs of cell types and of compartments against channels.",
                channels[columns].astype({"level": str, "source": str, "target": str, "channel": str}),
            )
        )
    top = _ranked(found, names, True)
    if len(top):
        typed = found.pairs[found.pairs["level"] != "channel, compartments"]
        figures.append(
            Figure(
                "network",
                "Network of cell types",
                crosstalk_figures.network("network", typed, max_q),
                f"Findings with q < {max_q:g}, of channels and concept pairs; the wider the line the more. "
                "Arrows where all directions of a pair of types agree (p < 0.05 each, by exchanging the two "
                f"roles in whole blocks); a ring for findings within a type. {TESTED}",
                "Cell types on a circle, joined by lines and arrows.",
                typed[typed["q"] < max_q][["source", "target", "channel", "a", "b", "q", "direction"]].astype(
                    str
                ),
            )
        )
        first = top.head(SHOWN)
        labels = [f"{r.source} – {r.target}: {r.what}" for r in first.itertuples()]
        figures.append(
            Figure(
                "claims",
                "Concept pairs with the smallest q",
                crosstalk_figures.dots("claims", first, labels, max_q),
                f"What neighbours have of both, against the null's mean. Filled: q < {max_q:g}; larger dots, "
                f"smaller q. {TESTED} Intervals over blocks, sections taken for independent. These are the "
                "strongest of many: their ratios are too large on average.",
                "Dot plot of effects with intervals.",
                first[["source", "target", "what", "log2_ratio", "lo", "hi", "q"]],
            )
        )
    for sample, tables in list(found.sections.items())[:1]:
        if len(tables["decay"]):
            shown = tables["decay"].assign(quantity=[_named(q, names) for q in tables["decay"]["quantity"]])
            figures.append(
                Figure(
                    "decay",
                    f"Decay with distance in {sample}",
                    crosstalk_figures.decay("decay", shown),
                    "Mean product of residuals of two cells by distance, with 95 % intervals over blocks: "
                    "channels with themselves, and the pairs with the smallest p. What falls off within "
                    "a few cells is local; nothing is tested here.",
                    "Line charts of association by distance.",
                    shown,
                )
            )
        if len(tables["nulls"]):
            shown = tables["nulls"].assign(claim=[_named(c, names) for c in tables["nulls"]["claim"]])
            figures.append(
                Figure(
                    "crosstalk-nulls",
                    f"Nulls of the strongest pairs in {sample}",
                    crosstalk_figures.null_histograms("crosstalk-nulls", shown),
                    "Bars: the statistic under toroidal shifts within FOVs, each cell taking the value of a "
                    "cell of its own type; line: as observed. A line beyond the bars is more than place, "
                    "type and smoothness give. p pools such nulls, standardised, of one receiver type.",
                    "Histograms of null statistics with a line each.",
                    shown,
                )
            )
    return figures


def _tables(found: Crosstalk, names: dict[str, str], max_q: float) -> list[Table]:
    rates = [
        {"level": level, "null": NULLS[name], "share": share, "n": facts["n_tests"]}
        for level, facts in found.summary["levels"].items()
        for name, share in facts["share_below_05"].items()
    ]
    channels = pd.concat(
        [tables["channels"].assign(sample=sample) for sample, tables in found.sections.items()],
        ignore_index=True,
    )
    lost = pd.concat(
        [tables["importance"].assign(sample=sample) for sample, tables in found.sections.items()],
        ignore_index=True,
    ).sort_values("excess", ascending=False, kind="stable")
    tables = [
        Table("crosstalk-contrasts", "Contrasts written down beforehand, each tested one-sided.",
              interval(found.contrasts), CONTRAST),
        Table("crosstalk-pairs",
        "Concept pairs, smallest q first; beside them the same test of member genes.",
              _ranked(found, names, True), FINDING),
        Table("crosstalk-channels", "Channels between types and compartments, smallest q first.",
              _ranked(found, names, False), FINDING, folded=True),
        Table("crosstalk-rates",
        "Share of tests with p < 0.05 under each null. Where nothing communicates it "
              "should be 5 %; a null with far more calls types, depth or smoothness communication.",
              # Without a concept that has an activity there is no test, hence no row.
              pd.DataFrame(rates, columns=["level", "null", "share", "n"]),
              {"level": "Level", "null": "Null", "share": "p < 0.05", "n": "Tests"}, rows=40),
        Table("crosstalk-shares",
        "Channels: share of the score within and across compartments, beside that of "
              "the edges' weights; Moran's I.", channels,
              {"sample": "Sample", "channel": "Channel", "n_concepts": "Concepts", "share_within": "Within",
               "share_cross": "Across", "edges_cross": "Edges across", "moran": "Moran's I",
               "semantic": "Semantic score", "reason": "Not scored"}, rows=60, folded=True),
        Table("crosstalk-importance",
        "What a receiver type loses when a sender type's edges are masked, beside "
              "the share of its edges.", lost.head(200),
              {"sample": "Sample", "channel": "Channel", "receiver": "Receiver", "sender": "Sender",
              "loss": "Loss",
               "expected": "Share of edges", "excess": "Excess"}, folded=True),
    ]  # fmt: skip
    if found.recovery is not None and len(found.recovery[0]):
        rows, summary = found.recovery
        words = "; ".join(
            f"{name}: AUROC {number(facts['auroc'])} ({facts['n_missing']} not tested, counted last; "
            f"{number(facts['auroc_tested'])} among tests)"
            + (f", {facts['n_direction_right']} directions right" if "n_direction_right" in facts else "")
            for name, facts in summary["variants"].items()
        )
        tables.insert(
            0,
            Table("pair-recovery",
            f"The {summary['n_planted']} planted pairs among all tests. {words}. What is lost "
                  "with planted activities is lost by the test, the rest by the activities (r: how well they "
                  "follow the planted ones within the type). Only this reads the truth.", rows, RECOVERED,
                  rows=40),
        )  # fmt: skip
    return tables

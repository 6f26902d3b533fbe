"""Recovery of planted programs: test F1 of a dictionary against its null and its baselines.

The only stage that reads ``truth/``, and nothing but the report reads what it writes. The layer is
chosen on validation blocks; every number compared here is from test blocks at that one layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job, stats
from interptfm.errors import InputError

RESAMPLES = 10_000
NULL = "permuted membership"
SINGLE = "best single gene"
GENE_MEASURES = {
    "held-out-gene AUROC": "gene_auroc",
    "held-out-gene AUROC, chosen by AUROC": "gene_auroc_ranked",
}
COMPARISON_COLUMNS = (
    "scope", "comparison", "left", "right", "measure", "n", "mean_left", "mean_right",
    "difference", "lo", "hi", "verdict",
)  # fmt: skip


def choose_layer(validation_excess: Mapping[int, float]) -> int:
    """Return the layer with the largest validation excess over the null; the lowest one of a tie.

    Takes the validation numbers alone, so that nothing from test blocks can enter the choice.

    Raises
    ------
    InputError
        If there is no layer, or none with a finite excess.
    """
    finite = {layer: value for layer, value in validation_excess.items() if math.isfinite(value)}
    if not finite:
        raise InputError(
            f"recovery: found validation excess {dict(validation_excess)}, "
            "expected a finite number for one layer or more"
        )
    return min(finite, key=lambda layer: (-finite[layer], layer))


def validation_excess(summary: Mapping[str, Any]) -> float:
    """Return the validation excess over the null from an alignment's ``summary.json``."""
    value = summary["validation_excess"]
    return math.nan if value is None else float(value)


def verdict(lo: float, hi: float, n: int) -> str:
    """Return in words what a 95 % interval of a mean difference over ``n`` terms shows."""
    if n == 0:
        return "not compared: no term in both"
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return "not tested: fewer than 2 terms"
    if lo > 0:
        return "higher: interval above 0"
    if hi < 0:
        return "lower: interval below 0"
    return "no difference shown: interval covers 0"


def paired_difference(
    left: pd.Series, right: pd.Series, generator: np.random.Generator, n_resamples: int = RESAMPLES
) -> dict[str, float | int | str]:
    """Compare two scores of the same terms by a paired bootstrap over terms.

    Parameters
    ----------
    left, right
        Scores indexed by term; terms that only one of them has, or with NaN in one, are left out
        and show as a smaller ``n``.
    generator
        Source of the resamples.
    n_resamples
        Number of bootstrap samples of the terms.

    Returns
    -------
    dict
        ``n``, ``mean_left``, ``mean_right``, ``difference`` (mean of left − right), ``lo`` and
        ``hi`` (percentile 95 % interval of that mean; NaN for fewer than two terms) and
        ``verdict`` in words.

    Notes
    -----
    Percentile bootstrap of the mean (Efron and Tibshirani, 1993), as in ``stats.paired_bootstrap``.
    The interval speaks of other terms drawn like these, for this one fitted model and dictionary.
    """
    pairs = pd.concat({"left": left, "right": right}, axis=1, join="inner").dropna()
    n = len(pairs)
    interval = {"lo": math.nan, "hi": math.nan}
    if n > 1:
        interval = stats.paired_bootstrap(pairs["left"], pairs["right"], n_resamples, generator)
    means = pairs.mean() if n else pd.Series({"left": math.nan, "right": math.nan})
    lo, hi = interval["lo"], interval["hi"]
    return {
        "n": n,
        "mean_left": float(means["left"]),
        "mean_right": float(means["right"]),
        "difference": float(means["left"] - means["right"]),
        "lo": lo,
        "hi": hi,
        "verdict": verdict(lo, hi, n),
    }


def compare(
    tables: Mapping[str, pd.DataFrame],
    scopes: Mapping[str, Iterable[str]],
    seed: int,
    n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Compare the first of ``tables`` with its null, its baselines and the other tables.

    Parameters
    ----------
    tables
        Name → ``concepts.parquet`` frame (``term_id``, ``f1``, ``null_mean``, ``f1_single_gene``),
        all of one layer. The first is the dictionary under test; an empty frame stands for a
        table that does not exist at this layer, and gives rows that say so.
    scopes
        Name → ids of the terms that the comparison is about, e.g. planted programs.
    seed
        The configured seed; each row draws from a generator of its own.

    Returns
    -------
    DataFrame
        One row a scope and comparison, columns ``COMPARISON_COLUMNS``. ``measure`` is ``F1`` or
        ``excess``, the F1 minus the term's own mean under permuted membership: what is left after
        each table's number of units is allowed for. Where the tables have them, the two AUROCs on
        held-out genes, too (``GENE_MEASURES``), against their nulls and between tables.
    """
    scored = {name: _scores(name, table) for name, table in tables.items()}
    main, *others = scored
    rows = []
    for scope, wanted in scopes.items():
        ids = pd.Index(sorted(set(wanted)), name="term_id")
        part = {name: frame[frame.index.isin(ids)] for name, frame in scored.items()}
        plan = [(main, NULL, "F1", part[main]["f1"], part[main]["null_mean"])]
        plan += [(main, SINGLE, "F1", part[main]["f1"], part[main]["f1_single_gene"])]
        for name in others:
            for measure, column in (("F1", "f1"), ("excess", "excess")):
                plan.append((main, name, measure, part[main][column], part[name][column]))
        for name in others:
            plan.append((name, NULL, "F1", part[name]["f1"], part[name]["null_mean"]))
        for measure, column in GENE_MEASURES.items():
            if column not in part[main]:
                continue
            here = {name: frame.get(column, _nothing(frame)) for name, frame in part.items()}
            null = {name: frame.get(f"{column}_null_mean", _nothing(frame)) for name, frame in part.items()}
            plan.append((main, NULL, measure, here[main], null[main]))
            plan += [(main, name, measure, here[main], here[name]) for name in others]
        for left, right, measure, a, b in plan:
            generator = job.generator(seed, "recovery", scope, left, right, measure)
            words = f"{left} − its {NULL}" if right == NULL else f"{left} − {right}"
            row = {"scope": scope, "comparison": words, "left": left, "right": right}
            row |= {"measure": measure, **paired_difference(a, b, generator, n_resamples)}
            absent = next((name for name in (left, right) if name in scored and scored[name].empty), "")
            if absent:
                row["verdict"] = f"not compared: no {absent} at this layer"
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _scores(name: str, table: pd.DataFrame) -> pd.DataFrame:
    needed = ["term_id", "f1", "null_mean", "f1_single_gene"]
    missing = [column for column in needed if column not in table.columns]
    if missing and not table.empty:
        raise InputError(f"concepts of {name}: found no column {missing[0]!r}, expected {', '.join(needed)}")
    if table.empty:
        return pd.DataFrame(columns=[*needed[1:], "excess"], index=pd.Index([], name="term_id")).astype(float)
    held_out = [name for column in GENE_MEASURES.values() for name in (column, f"{column}_null_mean")]
    chosen = [*needed[1:], *(name for name in held_out if name in table.columns)]
    frame = table.set_index("term_id")[chosen].astype(float)
    if frame.index.has_duplicates:
        raise InputError(
            f"concepts of {name}: found term {frame.index[frame.index.duplicated()][0]!r} twice, "
            "expected one row a term"
        )
    return frame.assign(excess=frame["f1"] - frame["null_mean"])


def _nothing(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(math.nan, index=frame.index)


def match_programs(truth: pd.DataFrame, terms: pd.DataFrame, concepts: pd.DataFrame) -> pd.DataFrame:
    """Find the scored term of each planted program.

    A program whose term fell into a class of terms with the same genes counts as that class.

    Parameters
    ----------
    truth
        Rows of ``truth/programs.parquet``: ``term_id`` of each program.
    terms
        ``concepts/terms.parquet``: ``term_id`` and ``members`` (ids of the class, a list or text
        with separators).
    concepts
        ``concepts.parquet`` of the dictionary under test: the terms that were scored.

    Returns
    -------
    DataFrame
        One row a planted term: ``program``, ``term_id`` of the term or class (empty where none),
        ``status`` (``scored``, ``scored as the class of …``, ``not scored``, ``not a term``).
    """
    classes = {}
    for term, members in zip(terms["term_id"], terms["members"], strict=True):
        for member in _members(members):
            classes.setdefault(member, term)
    classes.update({term: term for term in terms["term_id"]})
    scored = set(concepts.loc[concepts["f1"].notna(), "term_id"])
    rows = []
    for program in dict.fromkeys(truth["term_id"].astype(str)):
        term = classes.get(program, "")
        if not term:
            status = "not a term: too few or too many panel genes, or no annotation"
        elif term not in scored:
            status = "not scored: no F1 on test"
        else:
            status = "scored" if term == program else f"scored as the class of {term}"
        rows.append({"program": program, "term_id": term, "status": status})
    return pd.DataFrame(rows, columns=["program", "term_id", "status"])


def _roles(truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return planted programs and decoys; without a column ``role`` every row is planted."""
    if "role" not in truth.columns:
        return truth, truth.iloc[:0]
    return truth[truth["role"] == "planted"], truth[truth["role"] == "decoy"]


def _members(value: Any) -> list[str]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, str):
        return [part for part in value.replace(";", " ").replace(",", " ").split() if part]
    return [str(part) for part in value]


def programs_table(matched: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row a scored planted term: F1, null mean and q, beside each other table's F1.

    Columns: ``term_id``, ``name``, ``programs`` (planted ids, comma-separated), ``feature``,
    ``f1``, ``null_mean``, ``excess``, ``q``, ``f1_single_gene``, then the F1 of each further table
    under its name. Sorted by excess.
    """
    main, *others = tables
    found = matched[matched["status"].str.startswith("scored")]
    planted = found.groupby("term_id")["program"].agg(",".join).rename("programs").reset_index()
    columns = ["term_id", "name", "feature", "f1", "null_mean", "q", "f1_single_gene"]
    frame = planted.merge(tables[main][columns], on="term_id", how="inner")
    frame["excess"] = frame["f1"] - frame["null_mean"]
    for name in others:
        table = tables[name]
        scores = {} if table.empty else table.set_index("term_id")["f1"].to_dict()
        frame[name] = frame["term_id"].map(scores).astype(float)
    order = ["term_id", "name", "programs", "feature", "f1", "null_mean", "excess", "q"]
    frame = frame.sort_values(["excess", "term_id"], ascending=[False, True], ignore_index=True)
    return frame[[*order, "f1_single_gene", *others]]


def evaluate(
    truth: pd.DataFrame,
    terms: pd.DataFrame,
    concepts: Mapping[str, Mapping[int, pd.DataFrame]],
    validation_excess: Mapping[int, float],
    seed: int,
    n_resamples: int = RESAMPLES,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Judge how well the planted programs are found, in the layer chosen on validation.

    Parameters
    ----------
    truth, terms
        As for :func:`match_programs`.
    concepts
        Table name → layer → ``concepts.parquet`` frame; the first name is the dictionary under
        test, the others are raw neurons and arms.
    validation_excess
        Layer → mean validation F1 over the null of the dictionary under test.
    seed
        The configured seed.

    Returns
    -------
    (programs, comparisons, summary)
        :func:`programs_table`; :func:`compare` over planted programs, all terms, terms not planted
        (parents of planted ones among them, which share their genes) and, where the truth names
        them, decoys (gene sets drawn at random); and a dict for ``summary.json``.
    """
    layer = choose_layer(validation_excess)
    tables = {name: layers.get(layer, pd.DataFrame()) for name, layers in concepts.items()}
    main = next(iter(tables))
    if tables[main].empty:
        raise InputError(
            f"recovery: found no concepts of {main!r} at layer {layer}, expected them at each layer"
        )
    planted, decoys = _roles(truth)
    matched = match_programs(planted, terms, tables[main])
    programs = programs_table(matched, tables)
    every = set(tables[main]["term_id"].astype(str))
    # A class may hold a planted term beside others: it counts as planted even where not scored.
    scopes = {
        "planted programs": set(programs["term_id"]),
        "all terms": every,
        "not planted": every - set(matched["term_id"]),
    }
    if len(decoys):
        found = set(match_programs(decoys, terms, tables[main])["term_id"])
        scopes["decoys"] = scopes["not planted"] & found
    comparisons = compare(tables, scopes, seed, n_resamples)
    summary = {
        "layer": layer,
        "layer_chosen_by": "largest validation excess of the dictionary over its permuted membership",
        "validation_excess": {str(key): value for key, value in sorted(validation_excess.items())},
        "n_planted": len(matched),
        "n_scored": int(matched["status"].str.startswith("scored").sum()),
        "n_terms_scored": len(programs),
        "missing": matched[~matched["status"].str.startswith("scored")].to_dict("records"),
        "collapsed": matched[matched["status"].str.startswith("scored as")].to_dict("records"),
        "n_resamples": n_resamples,
        "tables": list(tables),
        "held_out_genes": plain_words(comparisons),
        "absent_at_layer": [name for name, table in tables.items() if table.empty],
    }
    return programs, comparisons, summary


def plain_words(comparisons: pd.DataFrame, scope: str = "planted programs") -> list[str]:
    """Return one sentence a comparison of AUROC on held-out genes: what is better, and by how much."""
    chosen = comparisons[(comparisons["scope"] == scope) & comparisons["measure"].isin(GENE_MEASURES)]
    sentences = []
    for row in chosen[chosen["n"] > 1].itertuples():
        if row.lo > 0:
            words = f"{row.left} is above {row.right}"
        elif row.hi < 0:
            words = f"{row.right} beats {row.left}"
        else:
            words = f"no difference shown between {row.left} and {row.right}"
        sentences.append(
            f"{row.measure}, {scope}: {words} ({row.mean_left:.3f} against {row.mean_right:.3f}; difference "
            f"{row.difference:.3f}, 95 % {row.lo:.3f} to {row.hi:.3f}, n = {row.n})."
        )
    return sentences


def strength_curve(
    runs: Sequence[Mapping[str, Any]], terms: pd.DataFrame, seed: int, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Return the excess over the null against the strength at which programs were planted.

    Parameters
    ----------
    runs
        One mapping a strength and layer: ``strength``, ``layer``, ``concepts`` (frame),
        ``validation_excess`` (float) and ``truth`` (frame with ``term_id``). The layer is chosen
        on validation within each strength.
    terms
        ``concepts/terms.parquet``.

    Returns
    -------
    DataFrame
        ``strength``, ``scope`` (planted programs, not planted), ``layer``, ``n``, ``mean_f1``,
        ``mean_null``, ``mean_excess``, ``lo``, ``hi`` and ``verdict``, by rising strength; and, where the
        runs have them, of both AUROCs on held-out genes ``<measure>_n``, ``<measure>``, ``…_null``,
        ``…_excess``, ``…_lo``, ``…_hi`` (``gene_auroc``, ``gene_auroc_ranked``).
    """
    rows = []
    for strength in sorted({float(run["strength"]) for run in runs}):
        mine = {int(run["layer"]): run for run in runs if float(run["strength"]) == strength}
        layer = choose_layer({key: float(run["validation_excess"]) for key, run in mine.items()})
        run = mine[layer]
        matched = match_programs(_roles(run["truth"])[0], terms, run["concepts"])
        scores = _scores(f"strength {strength:g}", run["concepts"])
        planted = scores.index.isin(matched["term_id"])
        for scope, part in (("planted programs", scores[planted]), ("not planted", scores[~planted])):
            generator = job.generator(seed, "recovery", "strength", f"{strength:g}", scope)
            found = paired_difference(part["f1"], part["null_mean"], generator, n_resamples)
            row = {"strength": strength, "scope": scope, "layer": layer, "n": found["n"]}
            row |= {"mean_f1": found["mean_left"], "mean_null": found["mean_right"]}
            row |= {"mean_excess": found["difference"], "lo": found["lo"], "hi": found["hi"]}
            row |= {"verdict": found["verdict"]}
            for column in GENE_MEASURES.values():
                if column in part:
                    generator = job.generator(seed, "recovery", "strength", f"{strength:g}", scope, column)
                    found = paired_difference(
                        part[column], part[f"{column}_null_mean"], generator, n_resamples
                    )
                    row |= {f"{column}_n": found["n"], column: found["mean_left"]}
                    row |= {f"{column}_null": found["mean_right"], f"{column}_excess": found["difference"]}
                    row |= {f"{column}_lo": found["lo"], f"{column}_hi": found["hi"]}
            rows.append(row)
    return pd.DataFrame(rows)

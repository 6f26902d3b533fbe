"""Quality control of the cells of one sample: a tidy table and one figure.

Colours are those of Okabe and Ito (2008), told apart by all common kinds of colour vision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TYPE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
REST_COLOUR = "#C8CDD2"
# Light to dark in this order, so that the splits stay apart in grey print too.
SPLIT_COLOURS = {"train": "#C8CDD2", "validation": "#E69F00", "test": "#0072B2", "guard": "#000000"}
QUANTILES = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
INK = "#1b2733"
MAX_BOXES = 400
WIDTH_INCHES = 7.4


def qc_table(cells: AnnData, report: Mapping[str, int]) -> pd.DataFrame:
    """Return the QC of one sample as rows of (quantity, group, value).

    Parameters
    ----------
    cells
        Cells as :func:`interptfm.cosmx.ingest` returns them.
    report
        ``read`` and the rows dropped by reason.

    Returns
    -------
    DataFrame
        ``quantity`` (what and its unit), ``group`` (quantile, reason, type, FOV, split; empty for the whole
        sample), ``value``. ``negative probe rate`` is the mean count of a negative probe over the mean
        count of a gene; ``negative probe fraction`` is their share of all counts.
    """
    import numpy as np
    import pandas as pd

    obs = cells.obs
    rows: list[tuple[str, str, float]] = [("rows read", "", report["read"])]
    rows += [("cells dropped", reason, n) for reason, n in report.items() if reason != "read"]
    rows += [
        ("cells kept", "", cells.n_obs),
        ("genes in panel", "", cells.n_vars),
        ("genes in vocabulary", "", int(cells.var["in_vocab"].sum())),
        ("genes never detected", "", int((np.asarray(cells.X.sum(axis=0)).ravel() == 0).sum())),
        ("FOVs", "", obs["fov"].nunique()),
        ("blocks", "", obs["block"].nunique()),
        ("shards", "", obs["shard"].nunique()),
    ]
    for label, column in (("counts per cell", "n_counts"), ("genes per cell", "n_genes")):
        rows.append((label, "mean", float(obs[column].mean())))
        rows += [(label, name, float(obs[column].quantile(q))) for name, q in QUANTILES.items()]
    if "area_um2" in obs:
        rows.append(("area per cell (µm²)", "median", float(obs["area_um2"].median())))
    genes_total = float(cells.X.sum())
    for kind, label in (("negative_probes", "negative probe"), ("system_controls", "system control")):
        if kind in cells.obsm:
            total = float(cells.obsm[kind].to_numpy().sum())
            number = cells.obsm[kind].shape[1]
            rows += [
                (f"{label}s", "", number),
                (f"{label} fraction", "", total / (total + genes_total)),
                (f"{label} rate", "", (total / number) / (genes_total / cells.n_vars)),
            ]
    if "spatial" in cells.obsm:
        span = np.ptp(cells.obsm["spatial"], axis=0)
        rows += [("extent (µm)", "x", float(span[0])), ("extent (µm)", "y", float(span[1]))]
    for label, column in (
        ("cells by type", "cell_type"),
        ("cells by FOV", "fov"),
        ("cells by split", "split"),
    ):
        counts = obs[column].value_counts(sort=False).sort_index()
        rows += [(label, str(group), int(n)) for group, n in counts.items()]
    # Guard cells stay in their block, so that a block is named after the split of the rest of its cells.
    scored = obs[obs["split"] != "guard"]
    for part, n in scored.groupby("split", observed=True)["block"].nunique().items():
        rows.append(("blocks by split", str(part), int(n)))
    return pd.DataFrame(rows, columns=["quantity", "group", "value"])


def qc_figure(cells: AnnData, sample: str) -> Figure:
    """Draw distributions of counts and genes, genes against negative probes, maps by type and by split.

    Cells without coordinates get bars of cells by type and by split in place of the maps. The eight most
    frequent types have a colour; the others share grey, and the legend says how many they are.

    Returns
    -------
    matplotlib Figure
        7.4 inches wide; points are rasterised.
    """
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "font.size": 8,
            "font.family": "DejaVu Sans",
            "text.parse_math": False,  # a dollar in the name of a cell type is a dollar
            "axes.titlesize": 9,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        spatial = cells.obsm.get("spatial")
        ratio = 1.0
        if spatial is not None:
            span = np.maximum(np.ptp(spatial, axis=0), 1.0)
            ratio = float(np.clip(span[1] / span[0], 0.35, 1.6))
        figure = Figure(figsize=(WIDTH_INCHES, 2.1 + 3.5 * ratio + 1.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=[2.1, 3.5 * ratio + 1.4])
        left, middle, right = top.subplots(1, 3)
        _histogram(left, cells.obs["n_counts"].to_numpy(), "Counts per cell", "counts of panel genes")
        _histogram(middle, cells.obs["n_genes"].to_numpy(), "Detected genes per cell", "genes")
        _target_means(right, cells)
        by_type, by_split = bottom.subplots(1, 2)
        types = cells.obs["cell_type"].value_counts()
        shown = [str(t) for t in types.index[: len(TYPE_COLOURS)]]
        colours = dict(zip(shown, TYPE_COLOURS))
        rest = len(types) - len(shown)
        labels = {t: f"{t} ({types[t]:,})" for t in shown}
        if rest > 0:
            labels["rest"] = f"{rest} other types ({int(types.iloc[len(shown) :].sum()):,})"
        splits = cells.obs["split"].value_counts()
        split_labels = {s: f"{s} ({splits[s]:,})" for s in SPLIT_COLOURS if splits.get(s, 0)}
        if spatial is None:
            _bars(by_type, types.to_dict(), "Cells by type", TYPE_COLOURS[0])
            _bars(by_split, {s: int(splits[s]) for s in split_labels}, "Cells by split", TYPE_COLOURS[0])
        else:
            values = cells.obs["cell_type"].astype(str).to_numpy()
            values = np.where(np.isin(values, shown), values, "rest")
            _map(by_type, spatial, values, {**colours, "rest": REST_COLOUR}, labels, "Cell types")
            _map(
                by_split,
                spatial,
                cells.obs["split"].astype(str).to_numpy(),
                SPLIT_COLOURS,
                split_labels,
                "Splits (boxes: blocks)",
            )
            _boxes(by_split, spatial, cells.obs["block"].to_numpy())
        figure.suptitle(
            f"{sample}: {cells.n_obs:,} cells × {cells.n_vars:,} genes", x=0.01, ha="left", size=10
        )
        return figure


def write_figure(path: str | Path, figure: Figure, name: str) -> None:
    """Write a figure as SVG, atomically and without a date, so that the same figure is the same file."""
    import matplotlib as mpl

    from interptfm import store

    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with store.atomic(path) as temporary, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(temporary, format="svg", metadata=nothing, dpi=200)


def _histogram(axes: Axes, values: Any, title: str, label: str) -> None:
    import numpy as np

    low, high = max(float(values.min()), 1.0), max(float(values.max()), 2.0)
    edges = np.unique(np.round(np.geomspace(low, high + 1, 41)))
    axes.hist(values, bins=edges if len(edges) > 2 else 10, color=TYPE_COLOURS[0])
    axes.set_xscale("log")
    _plain_log_ticks(axes, low, high)
    median = float(np.median(values))
    axes.axvline(median, color=INK, linewidth=1, linestyle="--")
    axes.set(title=title, xlabel=f"{label} (median {median:g})", ylabel="cells")


def _plain_log_ticks(axes: Axes, low: float, high: float) -> None:
    """Label a log axis with plain numbers (50, 100, 200, …) rather than with powers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    decades = [m * 10.0**k for k in range(-4, 7) for m in ((1, 2, 5) if high / low < 100 else (1,))]
    ticks = [t for t in decades if low <= t <= high]
    if len(ticks) > 7:
        ticks = ticks[:: -(-len(ticks) // 7)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _target_means(axes: Axes, cells: AnnData) -> None:
    import numpy as np

    means = np.asarray(cells.X.mean(axis=0)).ravel()
    sets = [("genes", means, TYPE_COLOURS[0], "-")]
    if "negative_probes" in cells.obsm:
        sets.append(
            ("negative probes", cells.obsm["negative_probes"].to_numpy().mean(axis=0), TYPE_COLOURS[3], "--")
        )
    # Targets that were never counted have no place on a log axis; half a count in all stands for them.
    floor = 0.5 / cells.n_obs
    for name, values, colour, line in sets:
        ordered = np.sort(np.maximum(values, floor))
        axes.step(
            ordered,
            np.arange(1, len(ordered) + 1) / len(ordered),
            color=colour,
            linestyle=line,
            label=f"{name} ({len(values)})",
            where="post",
        )
    axes.set_xscale("log")
    low = min(float(np.maximum(v, floor).min()) for _, v, _, _ in sets)
    _plain_log_ticks(axes, low, max(float(means.max()), low * 10))
    axes.set(title="Mean count of a target", xlabel="counts per cell", ylabel="share of targets")
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _map(
    axes: Axes, spatial: Any, values: Any, colours: Mapping[str, str], labels: Mapping[str, str], title: str
) -> None:
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    size = float(np.clip(16_000 / len(spatial), 0.3, 8.0))
    # The grey rest goes first, so that what has a colour lies on top of it.
    order = sorted(labels, key=lambda k: colours[k] != REST_COLOUR)
    for key in order:
        rows = values == key
        axes.scatter(*spatial[rows].T, s=size, c=colours[key], linewidths=0, rasterized=True)
    axes.set_aspect("equal")
    axes.set(title=title, xlabel="x (µm)", ylabel="y (µm)")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colours[k], markersize=5, label=labels[k])
        for k in labels
    ]
    # Below the axis label, whatever the height of the map: a distance in points, not a share of it.
    below = ScaledTranslation(0, -30 / 72, axes.figure.dpi_scale_trans)
    axes.legend(
        handles=handles,
        frameon=False,
        fontsize=7,
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes + below,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _boxes(axes: Axes, spatial: Any, block: Any) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    names = np.unique(block.astype(str))
    if len(names) > MAX_BOXES:
        return
    for name in names:
        xy = spatial[block == name]
        low, span = xy.min(axis=0), np.ptp(xy, axis=0)
        axes.add_patch(Rectangle(tuple(low), *span, fill=False, edgecolor=INK, linewidth=0.5))


def _bars(axes: Axes, counts: Mapping[str, int], title: str, colour: str) -> None:
    names = [str(n) for n in counts]
    bars = axes.barh(range(len(names)), list(counts.values()), color=colour)
    axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(title=title, xlabel="cells")

"""Files of a section's crosstalk that are no tables: the network as GraphML, the graph as squidpy reads
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interptfm import store
from interptfm.crosstalk import analysis, direction, graphs
from interptfm.crosstalk.reading import Section


def network(pairs: pd.DataFrame, section: Section, max_q: float) -> Any:
    """Return the network (networkx MultiDiGraph): nodes are cell types and compartments, edges findings.

    An edge a channel or concept pair with q below ``max_q``, and every channel between compartments whatever
    its q. One that has a direction runs that way; the others run both ways, ``directed`` False.
    """
    import networkx as nx

    from interptfm.regions.geometry import REGIONS

    graph = nx.MultiDiGraph(name="crosstalk")
    for name, n in section.obs["cell_type"].astype(str).value_counts().sort_index().items():
        graph.add_node(f"type: {name}", kind="cell type", cells=int(n))
    for i, name in enumerate(REGIONS):
        graph.add_node(
            f"compartment: {name}", kind="compartment", cells=int((section.compartment == i).sum())
        )
    shown = pairs[(pairs["q"] < max_q) | (pairs["level"] == analysis.COMPARTMENTS)]
    numbers = ("n_edges", "score", "null_mean", "log2_ratio", "p", "q")
    for row in shown.itertuples():
        kind = "compartment" if row.level == analysis.COMPARTMENTS else "type"
        ends = [f"{kind}: {row.source}", f"{kind}: {row.target}"]
        values = {name: float(getattr(row, name)) for name in numbers if pd.notna(getattr(row, name))}
        concepts = [str(row.a), str(row.b)]
        both = row.direction not in (direction.FORWARD, direction.BACKWARD) and ends[0] != ends[1]
        if row.direction == direction.BACKWARD:
            ends, concepts = ends[::-1], concepts[::-1]
        for (start, stop), (a, b) in ((ends, concepts), (ends[::-1], concepts[::-1]))[: 2 if both else 1]:
            words = {"channel": str(row.channel)} if row.channel else {"a": a, "b": b}
            graph.add_edge(start, stop, level=str(row.level), directed=not both, **words, **values)
    return graph


def write_network(path: str | Path, pairs: pd.DataFrame, section: Section, max_q: float) -> None:
    """Write :func:`network` as GraphML."""
    import networkx as nx

    with store.atomic(path) as temporary:
        nx.write_graphml(network(pairs, section, max_q), temporary)


def write_graph(
    path: str | Path, section: Section, graph: graphs.Graph, provenance: Mapping[str, Any]
) -> None:
    """Write the graph of cells as AnnData: obs, obsm ``spatial`` and what squidpy reads in obsp and uns."""
    from anndata import AnnData

    adata = AnnData(obs=section.obs.copy(), obsm={"spatial": section.spatial})
    graphs.to_squidpy(adata, graph)
    adata.uns["interptfm"] = json.dumps(dict(provenance), sort_keys=True)
    store.write_h5ad(path, adata)

"""Run by the Python of a rule family: what its packages find in a world of two groups that talk.

python comparator_oracle.py SYSTEM OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def liana():
    """The strongest row of each method in the world of tests/test_comparators.py, and sizes of a resource."""
    from test_comparators import INTERACTIONS, SETTINGS, talking

    from interptfm.comparators import communication, liana_plus

    table, _ = communication.by_level(
        talking(), 10, lambda cells, column: liana_plus.run(cells, column, INTERACTIONS, SETTINGS, 1)
    )
    resource = liana_plus.resource("consensus")
    # Shuffled labels test a mean of means, so that one side alone can be significant: the strongest counts.
    strength = table["score"].where(table["method"] != "rank_aggregate", -table["score"])
    best = table.assign(strength=strength).sort_values("strength", ascending=False).groupby("method").head(1)
    names = ["method", "source", "target", "ligand", "receptor"]
    return {
        "best": sorted(map(list, best[names].to_numpy())),
        "least": float(table.loc[table["method"] != "rank_aggregate", "p"].min()),
        "resource": len(resource),
        "columns": list(table.columns),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps({"liana": liana}[sys.argv[1]]()))

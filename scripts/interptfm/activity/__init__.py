"""How active a concept is in a cell: from the features that are aligned with it, and from its genes.

:mod:`pairs` says which features count for a concept, :mod:`scores` sums them up cell by cell, :mod:`rollup`
lets activity climb the graph where annotation did not, :mod:`channels` sorts terms by theme, :mod:`analysis`
runs all of it.
"""

"""Linear probes: the direction in which a concept's genes differ from all others, layer by layer.

``statistics`` streams what exact fits need, ``linear`` and ``logistic`` fit, ``metrics`` scores held-out
genes and cells, ``fitting`` does all of it for a layer; ``format`` is what others read: :func:`read_probes`.
``sparse`` asks how many dictionary features a concept needs, ``cosines`` how directions lie to each other.
"""

from interptfm.probes.format import KINDS, Directions, Probes, read_probes, unit_rows, write_probes

__all__ = ["KINDS", "Directions", "Probes", "read_probes", "unit_rows", "write_probes"]

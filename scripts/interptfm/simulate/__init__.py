"""Simulated tissue with ground truth: tumour nests in stroma, programs that are ontology terms.

``design`` says what is planted, ``tissue`` lays out the cells, ``expression`` turns types and
programs into counts, ``communication`` lets senders induce programs in their neighbours, ``model``
puts a world together, ``files`` writes it.
"""

from interptfm.simulate.design import CELL_TYPES, Design, Pair, Program, Settings, read_design
from interptfm.simulate.files import write_section, write_truth
from interptfm.simulate.model import Section, Simulation, simulate

__all__ = [
    "CELL_TYPES",
    "Design",
    "Pair",
    "Program",
    "Section",
    "Settings",
    "Simulation",
    "read_design",
    "simulate",
    "write_section",
    "write_truth",
]

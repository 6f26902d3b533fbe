"""From units to places: which cell types a unit marks, compartments called from units, and where they lie.

:mod:`geometry` knows labels and distances, :mod:`enrichment` compares units with cell types,
:mod:`archetypes` calls units and cells, :mod:`interface` tests what happens near the tumour,
:mod:`agreement` compares calls with labels, markers and stains, :mod:`analysis` runs all of it.
"""

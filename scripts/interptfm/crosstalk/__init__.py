"""Spatial crosstalk: which concepts of neighbouring cells go together, beyond type, depth and place.

:mod:`graphs` joins cells, :mod:`fields` and :mod:`channels` say what they have, :mod:`pairs` and
:mod:`scores` what neighbours share, :mod:`shifts` and :mod:`nulls` what chance gives, :mod:`direction` which
way it runs, :mod:`contrasts` tests what was written down beforehand, :mod:`analysis` does one section,
:mod:`sections` all.
"""

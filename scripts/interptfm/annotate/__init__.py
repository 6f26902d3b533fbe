"""Cells of another file through the model and dictionary of a finished run, without training.

:mod:`settings` says which files of the run are used and whether all are there, :mod:`query` reads the user's
file, :mod:`encoding` takes its cells through model and dictionary, :mod:`finished` reads what the run scores
concepts with, :mod:`scoring` scores, :mod:`page` makes the small report.
"""

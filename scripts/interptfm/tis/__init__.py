"""Transcriptomic interpretability: can a judge tell from expression alone which cell drives a unit?

Adapts the machine interpretability score of Zimmermann, Klindt and Brendel 2024 (arXiv:2410.14387) to
cells: :mod:`judges` turn expression into similarity, :mod:`tasks` draw reference and query cells,
:mod:`scoring` scores them, :mod:`units` reads what is scored and :mod:`controls` makes what it is
compared with, :mod:`table` puts all of it in one table.
"""

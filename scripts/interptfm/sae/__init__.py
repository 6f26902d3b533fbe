"""Sparse dictionaries of activations: training architectures, token buffer, SAELens format, metrics.

``batchtopk`` is a training architecture (further ones register in ``training.ARCHITECTURES``),
``inference`` what a trained dictionary does, ``format`` its files, ``buffer`` the tokens it learns
from, ``training`` the loop and ``metrics`` its quality on tokens that it did not see.
"""

"""Sparse dictionaries of activations: training architectures, token buffer, SAELens format, metrics.

``architecture`` is what training architectures share; ``topk``, ``relu`` and ``jumprelu`` hold them,
``sparse`` their products; ``inference`` is what a trained dictionary does, ``format`` its files, ``buffer``
the tokens it learns from, ``training`` the loop and ``metrics`` its quality on tokens that it did not see.
"""

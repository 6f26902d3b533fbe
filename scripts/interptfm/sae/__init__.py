"""Sparse dictionaries of activations: training architectures, token buffer, SAELens format, metrics.

``architecture`` is what training architectures share; ``topk``, ``relu`` and ``jumprelu`` hold them,
``selection`` finds the entries that TopK keeps, ``sparse`` their products; ``inference`` is what a trained
dictionary does, ``format`` its files and ``importing`` those of others, ``buffer`` the tokens it learns from,
``training`` the loop, ``metrics`` its quality on tokens that it did not see, ``stage`` all of it in order.
"""

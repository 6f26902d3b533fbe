"""Embeddings of gene descriptions: texts, providers of vectors, cells made of them, and what they are worth.

After GenePT (Chen and Zou 2024) and supervised contrastive refinement of text embeddings (arXiv 2509.23543).
``texts`` has the descriptions, ``providers`` (with ``transformer`` and ``endpoint``) turns text into vectors,
``cells`` turns genes into cells; ``folds``, ``contrastive``, ``classification`` and ``scores`` measure how
well cell types can be told by it, beside other representations; ``terms`` says which terms mark a type.
"""

"""Other systems on the same cells, each a rule of its own, scored by what scores ours.

:mod:`status` says what could not run and why, :mod:`communication` what systems of cell–cell communication
are given, :mod:`ligrec` and :mod:`liana_plus` run them, :mod:`concordance` compares them with crosstalk;
:mod:`scvi_latent` and :mod:`representations`: scVI beside the model's spaces; :mod:`nichenet`: ligand
activity; :mod:`tangram_map`: a single-cell reference on the tissue.
"""

"""Where the model comes from: a checkpoint, random weights, or pretraining on the input cells.

Pretraining is scGPT's masked expression modelling (Cui et al. 2024, Nature Methods): the bin of
masked tokens is predicted from their hidden state and, by the MVC decoder, from `<cls>`. Gene
embeddings start from the co-expression of the training cells, as scBERT starts from gene2vec.
"""

from interptfm.pretrain.building import INITS, Built, Sample, align, build
from interptfm.pretrain.embeddings import GENES, gene_half, svd_gene_embeddings
from interptfm.pretrain.masking import Batch, baselines, cut_batches, masked_batch, validation_batches
from interptfm.pretrain.training import Settings, evaluate, pretrain

__all__ = [
    "GENES",
    "INITS",
    "Batch",
    "Built",
    "Sample",
    "Settings",
    "align",
    "baselines",
    "build",
    "cut_batches",
    "evaluate",
    "gene_half",
    "masked_batch",
    "pretrain",
    "svd_gene_embeddings",
    "validation_batches",
]

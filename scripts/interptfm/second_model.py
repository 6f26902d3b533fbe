"""A second random model: an untrained transformer over the genes of a cell in the order of their rank.

It sees cells as Geneformer does (Theodoris et al. 2023, Nature 618:616) and not as scGPT: a cell is its
detected genes, sorted by count relative to the gene's median over cells, and a token is its gene and its
place; neither bins nor `<cls>`. All weights are random: what its states seem to know is what ranks give away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from torch import nn

NAME = "random transformer over ranked genes"
D, HEADS, D_HID, LAYERS = 64, 4, 128, 2
MAX_LENGTH = 2048
# Cells × longest cell squared of a batch: what attention holds, a few times over.
BATCH_PAIRS = 4_000_000
DEPTH = 10_000


def medians(counts: Sequence[sparse.csr_matrix], columns: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
    """Return each gene's median over cells that express it, per 10,000 counts of the cell; float64 (genes,).

    counts, columns: by sample, raw counts (cells × genes) and the place of their columns among all genes. A
    gene without counts has 1.
    """
    genes, shares = [], []
    for matrix, place in zip(counts, columns, strict=True):
        found = matrix.tocoo()
        total = np.asarray(matrix.sum(1)).ravel()
        genes.append(place[found.col])
        shares.append(found.data * (DEPTH / total[found.row]))
    gene, share = np.concatenate(genes), np.concatenate(shares)
    order = np.lexsort((share, gene))
    size = np.bincount(gene, minlength=n_genes)
    first = np.cumsum(size) - size
    lower, upper = first + np.maximum(size - 1, 0) // 2, first + size // 2
    share, result = share[order], np.ones(n_genes)
    some = size > 0
    result[some] = (share[lower[some]] + share[upper[some]]) / 2
    return result


def ranked(counts: sparse.csr_matrix, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tokens of all cells: cell, column and place in the cell (int64 each), by cell and rank.

    The gene with the largest count relative to ``scale`` (genes,) has place 0; ties are in the order of
    columns. Of longer cells the first 2,048 tokens are kept.
    """
    found = counts.tocoo()
    order = np.lexsort((found.col, -found.data / scale[found.col], found.row))
    cell, column = found.row[order].astype(np.int64), found.col[order].astype(np.int64)
    size = np.bincount(cell, minlength=counts.shape[0])
    place = np.arange(len(cell)) - np.repeat(np.cumsum(size) - size, size)
    kept = place < MAX_LENGTH
    return cell[kept], column[kept], place[kept]


class Network(nn.Module):
    """Gene and place embeddings, and two post-norm encoder layers; weights random, drawn from a seed."""

    def __init__(self, n_genes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gene, self.place = nn.Embedding(n_genes, D), nn.Embedding(MAX_LENGTH, D)
            self.norm = nn.LayerNorm(D)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(D, HEADS, D_HID, dropout=0.0, batch_first=True)
                for _ in range(LAYERS)
            )

    def forward(self, gene: torch.Tensor, place: torch.Tensor, padded: torch.Tensor) -> list[torch.Tensor]:
        """Return the states (cells × length × d) after each layer; ``padded`` (cells × length) is masked."""
        state, states = self.norm(self.gene(gene) + self.place(place)), []
        for layer in self.layers:
            state = layer(state, src_key_padding_mask=padded)
            states.append(state)
        return states


def batches(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs (start, stop) of tokens of whole cells, given each one's tokens; cells × length² is bounded."""
    start = stop = cells = longest = 0
    for size in sizes.tolist():
        if cells and (cells + 1) * max(longest, size) ** 2 > BATCH_PAIRS:
            yield start, stop
            start, cells, longest = stop, 0, 0
        stop, cells, longest = stop + size, cells + 1, max(longest, size)
    if cells:
        yield start, stop


def states(
    network: Network, gene: np.ndarray, cell: np.ndarray, place: np.ndarray, device: str = "cpu"
) -> Iterator[dict[int, np.ndarray]]:
    """Yield by layer the float32 states (tokens × d) of the tokens of some whole cells, in their order.

    gene: (n,) index among the network's genes; cell, place: of :func:`ranked`.
    """
    network = network.to(device).eval()
    for start, stop in batches(np.unique(cell, return_counts=True)[1]):
        row = np.unique(cell[start:stop], return_inverse=True)[1]
        shape = (row[-1] + 1, int(place[start:stop].max()) + 1)
        genes, padded = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool)
        at = (torch.from_numpy(row), torch.from_numpy(place[start:stop]))
        genes[at], padded[at] = torch.from_numpy(gene[start:stop]), False
        places = torch.arange(shape[1]).expand(shape)
        with torch.inference_mode():
            found = network(genes.to(device), places.to(device), padded.to(device))
        yield {layer: state.float().cpu()[at].numpy() for layer, state in enumerate(found)}

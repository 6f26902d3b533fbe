"""Cells a second of activation extraction: ours against the scgpt package's own path.

    .venv/bin/python benchmarks/extraction.py [--cells 256] [--repeats 3] [--threads 2] [--data FOLDER]

The package's path: its collator, batches of 128 cells in file order padded to the longest, its
`TransformerModel`; once with hooks on every layer's `norm2`, as extraction needs (off PyTorch's fused
path, in which the hooks see no plain tensors), once as `embed_data` runs it (fused, last layer only). Ours:
tokenise, run, write all layers to the activation store as float16; and the model alone. The
whole-human architecture (12 layers x 512) with random weights, the same in both, and
real CosMx cells. Prints wall and CPU time (the CPU column stands also on a busy machine), their ratios
to the package with hooks, and the largest difference of any hidden state.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def real_cells(folder: Path, n: int):
    """Raw counts (n x genes) CSR of cells spread evenly over the sample, and the gene symbols."""
    import pandas as pd
    from scipy import sparse

    frame = pd.read_csv(folder / "cosmx_nsclc_mini" / "nsclc_mini_exprMat_file.csv.gz")
    symbols = [name for name in frame.columns[2:] if not name.startswith("NegPrb")]
    rows = np.linspace(0, len(frame) - 1, n).astype(int)
    return sparse.csr_matrix(frame[symbols].to_numpy(np.float32)[rows]), symbols


def timed(function, repeats: int) -> np.ndarray:
    """Wall and CPU seconds (over all threads), the least of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        function()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.min(seconds, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    default = os.environ.get("INTERPTFM_REAL_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()

    import scgpt_oracle as oracle
    import torch

    from interptfm import activations
    from interptfm.scgpt import checkpoint
    from interptfm.scgpt.model import ModelConfig, initialise
    from interptfm.scgpt.tokenizer import Vocabulary, tokenize

    torch.set_num_threads(options.threads)
    counts, symbols = real_cells(options.data, options.cells)
    vocabulary = Vocabulary.from_genes(symbols)
    ids = vocabulary.ids(symbols)
    config, names = ModelConfig(), [f"cell {number}" for number in range(options.cells)]
    model = initialise(config, len(vocabulary), vocabulary.pad_id, seed=0).eval()
    network = oracle.model(config, len(vocabulary), vocabulary.pad_id, seed=0)
    network.load_state_dict(model.state_dict(), strict=False)
    vocab = {token: vocabulary.tokens.index(token) for token in ("<pad>", "<cls>")}
    known, layers = ids >= 0, list(range(config.nlayers))
    dense = counts.toarray()[:, known]

    def package(hooks: bool):
        results = []
        for genes, values, padding in oracle.embed_batches(dense, ids[known], vocab, size=128):
            if hooks:
                states = oracle.outputs(network, genes, values, padding)
                results.append(({f"layer_{n}": states[f"layer_{n}"] for n in layers}, ~padding))
            else:
                with torch.no_grad():
                    results.append(({"layer_11": network._encode(genes, values, padding)}, ~padding))
        return results

    def tokenised():
        return tokenize(counts, ids, vocabulary, cell_names=names)

    def alone():
        tokens = tokenised()
        results = []
        for start, stop in activations.batches(tokens.lengths, 16384):
            part = tokens.take(np.arange(start, stop))
            inputs = map(torch.from_numpy, (part.genes, part.values, part.lengths))
            with torch.inference_mode():
                results.append(model(*inputs).states)
        return results

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, model, vocabulary)
        loaded = activations.load_model(folder)

        def stored():
            everything = np.ones(options.cells, dtype=bool)
            activations.write_shard(
                Path(folder) / "shard.zarr.zip", loaded, counts, symbols, names, everything, layers
            )

        paths = {
            "package, hooks on every layer": lambda: package(hooks=True),
            "package, fused, last layer only": lambda: package(hooks=False),
            "ours, all layers": alone,
            "ours, all layers, written to the store": stored,
        }
        seconds = {name: timed(function, options.repeats) for name, function in paths.items()}
    reference = seconds["package, hooks on every layer"]

    ours, theirs = alone(), package(hooks=True)
    difference = 0.0
    for layer in layers:
        found = torch.cat([states[layer] for states in ours])
        expected = torch.cat([states[f"layer_{layer}"][real] for states, real in theirs])
        difference = max(difference, (found - expected).abs().max().item())

    lengths = tokenised().lengths
    print(f"{options.cells} cells, {lengths.sum()} tokens (median {np.median(lengths):.0f} a cell), "
          f"{options.threads} threads, torch {torch.__version__}")  # fmt: skip
    print(f"{'':40s} cells/s (ratio)   cells a CPU second (ratio)")
    for name, value in seconds.items():
        (wall, cpu), (faster, leaner) = options.cells / value, reference / value
        print(f"{name:40s} {wall:7.1f} ({faster:.2f})   {cpu:7.1f} ({leaner:.2f})")
    print(f"largest difference of any hidden state: {difference:.1e}")


if __name__ == "__main__":
    main()

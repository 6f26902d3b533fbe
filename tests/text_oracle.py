"""A tiny random BERT and its mean-pooled vectors, one text at a time: run by test_gene_text_providers.

python text_oracle.py <folder>    writes <folder>/model and oracle.npz: its vectors, and those of our provider
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TEXTS = ("one", "two three one", "three three three two one two three one two three", "two")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three")
MAX_TOKENS = 10


def main(folder: Path) -> None:
    import torch
    import transformers

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from interptfm.errors import InputError
    from interptfm.gene_text.transformer import Transformer

    model = folder / "model"
    model.mkdir()
    (model / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(model / "vocab.txt"))
    tokenizer.save_pretrained(model)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    network = transformers.BertModel(config).eval()
    network.save_pretrained(model)
    expected = []
    for text in TEXTS:
        encoded = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            expected.append(network(**encoded).last_hidden_state[0].mean(dim=0).numpy())
    ours = Transformer(str(model), None, batch=3, max_tokens=MAX_TOKENS)
    found = ours.embed(list(TEXTS))
    try:
        Transformer(str(folder), None, batch=3, max_tokens=MAX_TOKENS)
        refusal = ""
    except InputError as error:
        refusal = str(error)
    np.savez(
        folder / "oracle.npz", expected=expected, found=found, cut=ours.record()["texts_cut"], refusal=refusal
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

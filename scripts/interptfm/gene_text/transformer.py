"""Text vectors of any Hugging Face encoder (BioBERT, SciBERT, …), by name or folder, mean-pooled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interptfm import job
from interptfm.errors import InputError

log = logging.getLogger("interptfm")


class Transformer:
    """An encoder whose last hidden states are averaged over a text's tokens, padding left out.

    No code that comes with a model is run. A folder is read without network.

    Raises
    ------
    InputError
        If transformers is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str, revision: str | None, batch: int, max_tokens: int) -> None:
        try:
            import transformers
        except ImportError:
            raise InputError(
                "gene_text provider of kind transformer: found no package transformers, expected it; install "
                "it, name a Python that has it by the key 'environments.gene_text', or use conda "
                "(--software-deployment-method conda)"
            ) from None
        transformers.utils.logging.disable_progress_bar()
        self.name, self.revision, self.batch = model, revision, batch
        local = Path(model).is_dir()
        where = {"local_files_only": True} if local else {"revision": revision}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(model, **where)
            self.network = transformers.AutoModel.from_pretrained(model, **where).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            expected = "an encoder's folder" if local else f"one on the hub at revision {revision}"
            raise InputError(
                f"gene_text provider: found no model {model} that loads ({reason}), expected {expected}"
            ) from None
        positions = getattr(self.network.config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions)
        self.cut = 0

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing is learnt from the genes' texts."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean of the last hidden states over each text's tokens, (texts × d) float32."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        values: np.ndarray | None = None
        starts = range(0, len(order), self.batch)
        for start in job.progress(starts, "texts, batches"):
            chosen = order[start : start + self.batch]
            encoded = self.tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=self.max_tokens,
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                states = self.network(**encoded).last_hidden_state
            mask = encoded["attention_mask"][:, :, None].to(states.dtype)
            means = ((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).float().numpy()
            if values is None:
                values = np.empty((len(texts), means.shape[1]), np.float32)
            values[chosen] = means
            self.cut += int((encoded["attention_mask"].sum(dim=1) == self.max_tokens).sum())
        if self.cut:
            log.warning("%d of the texts reach the limit of %d tokens", self.cut, self.max_tokens)
        return np.empty((0, 0), np.float32) if values is None else values

    def record(self) -> dict[str, Any]:
        found = getattr(self.network.config, "_commit_hash", None) or self.revision
        return {"model": self.name, "revision": found, "max_tokens": self.max_tokens, "texts_cut": self.cut}

"""Text vectors of an OpenAI-compatible endpoint: estimated first, asked in batches, cached by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interptfm import job, store
from interptfm.errors import InputError

log = logging.getLogger("interptfm")

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English under byte-pair encodings; the estimate needs no tokeniser of the model."""
PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_S = 120.0


class Endpoint:
    """POST ``{url}/embeddings`` with ``model`` and a list of texts, as OpenAI's interface has it.

    Parameters
    ----------
    url, model
        Base address and name of the model.
    key
        Environment variable with the key, sent as a bearer token and never logged or written; it must be set.
    batch
        Texts a request.
    attempts, timeout, wait
        Attempts of a request (lost connections and passing statuses), seconds without an answer after which
        it is lost, seconds before the second attempt (doubled after each; a server's Retry-After counts
        instead).
    usd_per_million_tokens, max_usd
        Price for the estimate, and the estimate above which nothing is asked.
    cache
        Folder of answers, one file a text, named by the digest of address, model and text: what was paid
        once is not asked again, whatever run or order of texts.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str,
        batch: int,
        attempts: int,
        timeout: float,
        wait: float,
        usd_per_million_tokens: float,
        max_usd: float,
        cache: str,
    ) -> None:
        self.url, self.model, self.key_variable = url.rstrip("/"), model, key
        self.batch, self.attempts, self.timeout, self.wait = batch, attempts, timeout, wait
        self.price, self.max_usd, self.cache = usd_per_million_tokens, max_usd, Path(cache)
        self.asked = self.from_cache = self.tokens_used = 0
        self.estimate_usd = 0.0

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing is learnt from the genes' texts."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector a text, (texts × d) float32.

        Raises
        ------
        InputError
            If the estimate is above the limit, there is no key, the server refuses, or answers with something
            else than one finite vector a text, all of one length.
        """
        missing = [text for text in dict.fromkeys(texts) if not self._file(text).is_file()]
        self.from_cache += len(set(texts)) - len(missing)
        if missing:
            self._ask_all(missing)
        rows = [self._cached(text) for text in texts]
        sizes = sorted({len(row) for row in rows})
        if len(sizes) > 1:
            raise InputError(
                f"{self.cache}: found vectors of lengths {sizes}, expected one; delete the folder"
            )
        return np.asarray(rows, np.float32)

    def _ask_all(self, texts: Sequence[str]) -> None:
        tokens = sum(-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts)
        usd = tokens * self.price / 1e6
        self.estimate_usd += usd
        log.info(
            "%s: %d texts to embed, about %d tokens, about %.4f USD at %g USD a million tokens",
            self.model, len(texts), tokens, usd, self.price,
        )  # fmt: skip
        if usd > self.max_usd:
            raise InputError(
                f"gene_text provider: found an estimate of {usd:.2f} USD for {len(texts)} texts of about "
                f"{tokens} tokens, expected at most max_usd = {self.max_usd:g}; nothing was asked"
            )
        key = os.environ.get(self.key_variable)
        if not key:
            raise InputError(
                f"gene_text provider: found no key in the environment variable {self.key_variable}, expected "
                f"one for {self.url}"
            )
        starts = range(0, len(texts), self.batch)
        for start in job.progress(starts, "texts, requests"):
            part = texts[start : start + self.batch]
            for text, vector in zip(part, self._ask(part, key), strict=True):
                self._keep(text, vector)
            self.asked += len(part)

    def _ask(self, texts: Sequence[str], key: str) -> list[list[float]]:
        import requests

        address, problem, pause = f"{self.url}/embeddings", "", 0.0
        for attempt in range(self.attempts):
            time.sleep(min(pause, LONGEST_WAIT_S))
            pause = self.wait * 2**attempt
            try:
                answer = requests.post(
                    address,
                    json={"model": self.model, "input": list(texts)},
                    headers={"Authorization": f"Bearer {key}"},
                    timeout=self.timeout,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                problem = type(error).__name__
            else:
                if answer.status_code == 200:
                    return self._vectors(answer.text, len(texts))
                if answer.status_code not in PASSING_STATUS:
                    raise InputError(
                        f"{address}: found HTTP status {answer.status_code} ({_message(answer.text, key)}), "
                        f"expected vectors of {self.model}"
                    )
                problem = f"HTTP status {answer.status_code}"
                wanted = answer.headers.get("Retry-After", "")
                pause = float(wanted) if wanted.isdigit() else pause
            log.warning("%s, attempt %d of %d: %s", address, attempt + 1, self.attempts, problem)
        raise InputError(
            f"{address}: found no answer in {self.attempts} attempts ({problem}), expected vectors of "
            f"{self.model}; what was answered before is kept in {self.cache}"
        )

    def _vectors(self, text: str, n: int) -> list[list[float]]:
        """Return the vectors of an answer in the order of what was asked: its rows carry an ``index``."""
        try:
            answer = json.loads(text)
            self.tokens_used += int(answer.get("usage", {}).get("total_tokens", 0))
            rows = {int(row["index"]): [float(x) for x in row["embedding"]] for row in answer["data"]}
            found = [rows[i] for i in range(n)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.url}: found an answer of another shape ({type(error).__name__}: {error}), expected "
                f"{n} vectors by index"
            ) from None
        if len({len(row) for row in found}) != 1 or not found[0] or not np.isfinite(found).all():
            raise InputError(f"{self.url}: found vectors that are ragged or not finite, expected {n} alike")
        return found

    def _file(self, text: str) -> Path:
        name = hashlib.sha256(f"{self.url}\x1f{self.model}\x1f{text}".encode()).hexdigest()
        return self.cache / name[:2] / f"{name}.json"

    def _keep(self, text: str, vector: list[float]) -> None:
        store.write_json(self._file(text), vector)

    def _cached(self, text: str) -> list[float]:
        return store.read_json(self._file(text))

    def record(self) -> dict[str, Any]:
        return {
            "model": self.model, "url": self.url, "texts_asked": self.asked,
            "texts_from_cache": self.from_cache, "tokens_used": self.tokens_used,
            "estimate_usd": self.estimate_usd,
        }  # fmt: skip


def _message(text: str, key: str) -> str:
    """Return what an error says, short, and without the key should the server repeat it."""
    try:
        words = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = text
    return " ".join(str(words).replace(key, "…").split())[:160] or "no reason given"

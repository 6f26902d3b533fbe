"""Concepts from the g:Profiler service: one g:GOSt query for the whole panel, cached by its content.

The official client has neither time limit nor retries and raises AssertionError on any status but 200; here
are a time limit, retries with back-off, and one sentence where no answer is to be had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.ontology.gprofiler_csv import Table, from_table
from interptfm.ontology.terms import ASPECTS, EXPERIMENTAL, Concepts, dag_frame, log

ARCHIVE = "https://biit.cs.ut.ee/gprofiler_archive3/e111_eg58_p18"
SOURCES = ("GO:BP", "GO:MF", "GO:CC", "KEGG", "REAC")
ATTEMPTS = 4
PAUSE_S = 2.0
OFFLINE = "without network use ontology.source obo_gaf or gprofiler_csv, which read files"


class _Timed:
    """Stands in for ``requests`` inside the client: adds a time limit and keeps the raw answer."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.text = timeout, ""

    def post(self, *arguments: Any, **options: Any) -> Any:
        import requests

        response = requests.post(*arguments, timeout=self.timeout, **options)
        self.text = response.text
        return response


@contextlib.contextmanager
def _timed(timeout: float) -> Iterator[_Timed]:
    from gprofiler import gprofiler as client

    original, client.requests = client.requests, _Timed(timeout)
    try:
        yield client.requests
    finally:
        client.requests = original


def query(
    panel: Sequence[str],
    *,
    organism: str,
    sources: Sequence[str],
    base_url: str,
    timeout: float,
    cache: str | Path | None,
    pause: float = PAUSE_S,
) -> dict[str, Any]:
    """Return the answer of one g:GOSt query: ``request``, ``retrieved`` (date), ``raw`` (the JSON).

    All terms whatever their significance, evidence codes included, the panel as query and background. From
    ``cache`` (a folder) where the same request was answered before, else asked for and written there.

    Raises
    ------
    InputError
        If there is no usable answer after four attempts, or the cached one is damaged.
    """
    request = {"organism": organism, "sources": list(sources), "base_url": base_url, "query": list(panel)}
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    path = None if cache is None else Path(cache) / f"{key}.json"
    if path is not None and path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: found no JSON ({error}), expected a cached answer") from None
    raw = _ask(request, timeout, pause)
    retrieved = datetime.now(UTC).date().isoformat()
    answer = {"request": request, "retrieved": retrieved, "meta": raw["meta"], "raw": raw}
    if path is not None:
        from interptfm import store

        path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(path) as temporary:
            temporary.write_text(json.dumps(answer, sort_keys=True), encoding="utf-8")
    return answer


def _ask(request: Mapping[str, Any], timeout: float, pause: float) -> dict[str, Any]:
    import requests
    from gprofiler import GProfiler

    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            with _timed(timeout) as web:
                GProfiler(user_agent="interptfm", base_url=request["base_url"]).profile(
                    request["query"],
                    organism=request["organism"],
                    sources=request["sources"],
                    all_results=True,
                    no_evidences=False,
                    background=request["query"],
                )
                return json.loads(web.text)
        except (requests.RequestException, AssertionError, ValueError, KeyError, TypeError) as error:
            words = " ".join(str(error).split())[:160]
            reason = f"{type(error).__name__}{f': {words}' if words else ''}"
            log.warning("g:Profiler, attempt %d of %d: %s", attempt + 1, ATTEMPTS, reason)
    raise InputError(
        f"{request['base_url']}: found no usable answer of g:Profiler in {ATTEMPTS} attempts ({reason}); "
        f"{OFFLINE}"
    )


def as_table(raw: Mapping[str, Any], name: str) -> tuple[Table, pd.DataFrame]:
    """Return the answer as a g:GOSt table, genes by the symbols asked for, and its graph as edges.

    ``intersections`` runs along ``meta.genes_metadata.query.<name>.ensgs``, an empty list where the gene is
    not annotated. A symbol that maps to several genes has a term if one of them has.

    Raises
    ------
    InputError
        If there is no term, or the answer is not of that shape.
    """
    try:
        results = raw["result"]
        if not results:
            raise InputError(
                f"{name}: found no term in the answer, expected some; check organism and sources"
            )
        which = results[0]["query"]
        metadata = raw["meta"]["genes_metadata"]["query"][which]
        symbols = list(metadata["mapping"])
        column = {ensg: i for i, symbol in enumerate(symbols) for ensg in metadata["mapping"][symbol]}
        place = [column.get(ensg, -1) for ensg in metadata["ensgs"]]
        rows, columns, codes, edges = [], [], [], []
        for row, result in enumerate(results):
            found: dict[int, set[str]] = {}
            for index, evidence in zip(place, result["intersections"], strict=True):
                if evidence and index >= 0:
                    found.setdefault(index, set()).update(map(str, evidence))
            rows += [row] * len(found)
            columns += list(found)
            codes += [",".join(sorted(words)) for words in found.values()]
            edges += [(str(result["native"]), str(parent)) for parent in result.get("parents", ())]
        terms = pd.DataFrame(
            {
                "source": [str(result["source"]) for result in results],
                "term_name": [str(result["name"]) for result in results],
                "term_id": [str(result["native"]) for result in results],
                "term_size": [int(result["term_size"]) for result in results],
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: found an answer of another shape ({error!r}), expected g:GOSt's") from None
    texts = list(dict.fromkeys(codes))
    number = {text: i for i, text in enumerate(texts)}
    text = np.array([number[code] for code in codes], np.int64)
    table = Table(terms, symbols, np.array(rows, np.int64), np.array(columns, np.int64), text, texts)
    children, parents = ([edge[i] for edge in edges] for i in (0, 1))
    return table, dag_frame(children, parents, ["parent"] * len(edges)).drop_duplicates(ignore_index=True)


def from_gprofiler(
    panel: Sequence[str],
    *,
    organism: str = "hsapiens",
    sources: Sequence[str] = SOURCES,
    base_url: str = ARCHIVE,
    timeout: float = 120.0,
    cache: str | Path | None = None,
    pause: float = PAUSE_S,
    evidence: Sequence[str] | None = EXPERIMENTAL,
    aspects: Sequence[str] = ASPECTS,
    keep_without_evidence: Sequence[str] = ("KEGG", "REAC"),
    min_genes: int = 5,
    max_fraction: float = 0.4,
) -> Concepts:
    """Build concepts from the g:Profiler service (Kolberg et al. 2023, *NAR* 51:W207).

    Filters as in :func:`interptfm.ontology.from_gprofiler_csv`; annotation comes propagated, ``dag`` holds
    the ``parents`` of every term, ``query`` the version and date of the answer. Raises InputError without a
    usable answer.
    """
    answer = query(
        panel,
        organism=organism,
        sources=sources,
        base_url=base_url,
        timeout=timeout,
        cache=cache,
        pause=pause,
    )
    table, dag = as_table(answer["raw"], base_url)
    meta = answer["raw"]["meta"]
    failed = meta["genes_metadata"].get("failed", [])
    origin = {
        "source": "gprofiler",
        "files": {},
        "versions": {"gprofiler": str(meta.get("version", "")), "base_url": base_url},
        "retrieved": answer["retrieved"],
        "request": {key: value for key, value in answer["request"].items() if key != "query"},
        "genes_not_recognised": sorted(map(str, failed)),
        "raw": answer["raw"],
    }
    return from_table(
        table,
        base_url,
        panel,
        evidence=evidence,
        aspects=aspects,
        keep_without_evidence=keep_without_evidence,
        min_genes=min_genes,
        max_fraction=max_fraction,
        origin=origin,
        dag=dag,
    )

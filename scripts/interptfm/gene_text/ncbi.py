"""Download of gene names and summaries from NCBI Gene, resumed and repeated as all downloads are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interptfm import fetch
from interptfm.errors import InputError
from interptfm.gene_text import texts

LICENCE = "NCBI Gene, a work of the United States government: no restriction on use"


def download(
    summaries: str, genes: str, taxon: int, work: str | Path, **options: Any
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return gene → text of a species, and the records of both downloads (url, sha256, bytes, date).

    Parameters
    ----------
    summaries, genes
        Addresses of ``gene_summary.gz`` and of a ``gene_info.gz``.
    taxon
        NCBI taxonomy id.
    work
        Folder for unfinished downloads; what is in it survives a failure and is continued.
    options
        As :func:`interptfm.fetch.download` takes them.

    Raises
    ------
    InputError
        As :func:`interptfm.fetch.download` and :func:`interptfm.gene_text.texts.from_ncbi` raise it; a
        damaged file is not kept.
    """
    parts, records = [], []
    for role, url in (("summaries", summaries), ("genes", genes)):
        item = fetch.Item(f"ncbi_{role}", "file", url, None, None, LICENCE, f"ncbi_gene_texts_{taxon}.tsv")
        parts.append(Path(work, f"ncbi_{role}.part"))
        records.append({"name": item.name, **fetch.download(item, parts[-1], **options)})
    try:
        found = texts.from_ncbi(*parts, taxon)
    except InputError as error:
        names = dict(zip(map(str, parts), (summaries, genes), strict=True))
        words = str(error)
        for part, url in names.items():
            words = words.replace(part, url)
        raise InputError(words) from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}.json").unlink(missing_ok=True)
    return found, records

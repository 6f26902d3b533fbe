"""Providers against local servers that fail in the ways servers do, and an encoder against itself."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from test_gene_text import NCBI_GENES, NCBI_SUMMARIES

from interptfm import config as config_module
from interptfm import spaces
from interptfm.errors import InputError
from interptfm.gene_text import ncbi, providers, settings
from interptfm.gene_text.endpoint import Endpoint
from interptfm.gene_text.transformer import Transformer

KEY = "sk-secret-of-the-test"
TEXTS = [f"text number {i}" for i in range(7)]


def vector(text):
    return [float(len(text)), float(sum(text.encode()) % 97), 1.0]


class Handler(BaseHTTPRequestHandler):
    """Answer as an embedding endpoint; the first path component names the fault. GET serves NCBI's files."""

    def log_message(self, *_):
        pass

    def reply(self, status, content, headers=()):
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.path.split("/")[1]
        self.server.requests.append((fault, asked, self.headers.get("Authorization")))
        count = Counter(request[0] for request in self.server.requests)[fault]
        if fault == "busy" and count == 1:
            return self.reply(429, b"{}", [("Retry-After", "0")])
        if fault == "broken" and count < 3:
            return self.reply(500, b"oh")
        if fault == "down":
            return self.reply(503, b"")
        if fault == "denied":
            words = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
            return self.reply(401, json.dumps(words).encode())
        if fault == "lost" and count == 1:
            return self.connection.close()
        rows = [{"index": i, "embedding": vector(text)} for i, text in enumerate(asked["input"])]
        if fault == "short":
            rows = rows[1:]
        if fault == "ragged":
            rows[0]["embedding"] = [1.0]
        answer = {"data": rows[::-1], "usage": {"total_tokens": 5 * len(rows)}}
        return self.reply(200, json.dumps(answer).encode())

    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        return self.reply(200, content, [("ETag", '"1"')])


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.requests, found.files = [], {}
    found.url = f"http://127.0.0.1:{found.server_port}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def endpoint(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEXT_KEY", KEY)

    def make(fault="fine", **changes):
        options = {
            "url": f"{server.url}/{fault}/v1", "model": "some-model", "key": "TEXT_KEY", "batch": 3,
            "attempts": 3, "timeout": 5, "wait": 0.01, "usd_per_million_tokens": 0.1, "max_usd": 1,
            "cache": str(tmp_path / "cache"),
        }  # fmt: skip
        return Endpoint(**{**options, **changes})

    return make


def test_vectors_come_in_batches_and_in_order(server, endpoint):
    found = endpoint()
    np.testing.assert_array_equal(found.embed(TEXTS), [vector(text) for text in TEXTS])
    assert [len(asked["input"]) for _, asked, _ in server.requests] == [3, 3, 1]
    assert {asked["model"] for _, asked, _ in server.requests} == {"some-model"}
    assert {key for *_, key in server.requests} == {f"Bearer {KEY}"}
    record = found.record()
    assert record["texts_asked"] == 7 and record["texts_from_cache"] == 0 and record["tokens_used"] == 35
    assert KEY not in json.dumps(record)


def test_what_was_answered_is_not_asked_again(server, endpoint, tmp_path, monkeypatch):
    endpoint().embed(TEXTS[:4])
    second = endpoint()
    np.testing.assert_array_equal(second.embed(TEXTS[::-1]), [vector(text) for text in TEXTS[::-1]])
    assert second.record()["texts_from_cache"] == 4 and second.record()["texts_asked"] == 3
    before = len(server.requests)
    monkeypatch.delenv("TEXT_KEY")  # all is there: not even a key is needed
    endpoint().embed(TEXTS)
    assert len(server.requests) == before
    with pytest.raises(InputError, match="no key in the environment variable TEXT_KEY"):
        endpoint(model="another").embed(TEXTS[:1])
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert len(kept) == 7 and not any(KEY in text for text in kept)


@pytest.mark.parametrize("fault, requests", [("busy", 4), ("broken", 5), ("lost", 4)])
def test_passing_failures_are_tried_again(server, endpoint, fault, requests):
    np.testing.assert_array_equal(endpoint(fault).embed(TEXTS), [vector(text) for text in TEXTS])
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "fault, message",
    [
        ("down", r"found no answer in 3 attempts \(HTTP status 503\)"),
        (
            "denied",
            r"found HTTP status 401 \(Incorrect API key provided: …\), expected vectors of some-model",
        ),
        ("short", "found an answer of another shape"),
        ("ragged", "found vectors that are ragged or not finite"),
    ],
)
def test_lasting_failures_get_one_sentence_without_the_key(endpoint, fault, message, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(InputError, match=message) as raised:
        endpoint(fault).embed(TEXTS)
    assert KEY not in str(raised.value) and KEY not in caplog.text


def test_the_estimate_comes_before_the_first_request(server, endpoint, caplog):
    logging.getLogger("interptfm").propagate = True
    with caplog.at_level(logging.INFO, logger="interptfm"):
        endpoint().embed(TEXTS)
    # 7 texts of 13 characters: 4 tokens each, by 4 characters a token
    assert "7 texts to embed, about 28 tokens, about 0.0000 USD" in caplog.text
    before = len(server.requests)
    with pytest.raises(InputError, match=r"found an estimate of 28.00 USD .*nothing was asked"):
        endpoint(model="dear", usd_per_million_tokens=1e6).embed(TEXTS)
    assert len(server.requests) == before


def test_genes_of_an_endpoint(endpoint, server, tmp_path):
    setting = {
        "name": "remote", "kind": "endpoint", "url": f"{server.url}/fine/v1", "model": "m", "key": "TEXT_KEY",
        "batch": 2, "attempts": 1, "timeout": 5, "wait": 0, "usd_per_million_tokens": 0, "max_usd": 0,
        "cache": str(tmp_path / "other"),
    }  # fmt: skip
    genes, vectors, record = providers.gene_vectors(setting, {"A": "x", "B": "yy", "C": "zzz"}, [], 0)
    assert genes == ["A", "B", "C"] and vectors[:, 0].tolist() == [1, 2, 3] and record["texts_asked"] == 3


# The download.


def test_texts_of_ncbi_are_downloaded(server, tmp_path):
    server.files = {
        "/s.gz": gzip.compress(NCBI_SUMMARIES.encode()), "/g.gz": gzip.compress(NCBI_GENES.encode()),
        "/cut.gz": gzip.compress(NCBI_GENES.encode())[:-12],
    }  # fmt: skip
    quick = {"attempts": 2, "timeout_s": 2, "wait_s": 0.01}
    addresses = (f"{server.url}/s.gz", f"{server.url}/g.gz")
    found, records = ncbi.download(*addresses, 9606, tmp_path, **quick)
    assert found["TNF"] == "TNF: tumor necrosis factor. A cytokine." and set(found) == {"TNF", "XYZ"}
    assert [record["url"] for record in records] == list(addresses)
    assert all(len(record["sha256"]) == 64 for record in records)
    with pytest.raises(InputError, match=r"/cut.gz: found a damaged file"):
        ncbi.download(addresses[0], f"{server.url}/cut.gz", 9606, tmp_path, **quick)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="found HTTP status 404"):
        ncbi.download(addresses[0], f"{server.url}/none.gz", 9606, tmp_path, **quick)


# Encoders.


def test_an_encoder_without_the_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="found no package transformers, expected it"):
        Transformer("some/model", "0" * 40, 4, 64)


@pytest.mark.soak
def test_an_encoder_is_mean_pooled_over_its_own_tokens(root, tmp_path):
    """In the environment of `make soak`, which has transformers: batches and padding change nothing."""
    python = Path(os.environ.get("INTERPTFM_SOAK_PYTHON", root / ".venv-soak/bin/python"))
    if not python.is_file():
        pytest.skip(f"no {python}: make soak builds it")
    command = [str(python), str(root / "tests/text_oracle.py"), str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "oracle.npz") as made:
        assert made["found"].shape == (4, 12)
        np.testing.assert_allclose(made["found"], made["expected"], atol=1e-5)
        assert made["cut"] == 1 and "found no model" in str(made["refusal"])


# The configuration.


@pytest.fixture
def configured(root, monkeypatch):
    monkeypatch.chdir(root)
    schema = config_module.load_yaml("workflow/schemas/config.schema.yaml")

    def make(**changes):
        given = config_module.load_yaml("config/config.yaml")
        tis = changes.pop("tis", {})
        given["gene_text"] |= changes
        given["tis"] |= tis
        return config_module.resolve(given, schema)[""]

    return make


def test_a_provider_gets_the_defaults_of_its_kind(configured):
    found = configured(providers=[{"name": "ada", "kind": "endpoint"}, {"name": "words", "kind": "tfidf"}])
    remote, words = found["gene_text"]["providers"]
    assert remote["model"] == "text-embedding-ada-002" and remote["key"] == "OPENAI_API_KEY"
    assert words["dimensions"] == 128 and "model" not in words
    settings.check(found)
    names = [name for name, _ in settings.representations(found)]
    assert names[:6] == ["ada_weighted", "ada_sentence", "ada_permuted", "words_weighted", "words_sentence",
                         "words_permuted"]  # fmt: skip
    ours = {"pca", "cls_1", "cls_3", "features_1", "features_3"}
    assert ours | set(spaces.latents(found)) == set(names[6:]) and "scvi" in names


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"providers": [{"name": "a", "kind": "tfidf"}] * 2}, "found the name 'a' twice"),
        ({"providers": [{"name": "a", "kind": "table"}]}, "found no key 'path'"),
        ({"providers": [{"name": "a", "kind": "table", "path": "none.tsv"}]}, "found no file none.tsv"),
        ({"providers": [{"name": "a", "kind": "tfidf", "model": "x"}]}, "which kind 'tfidf' does not have"),
        (
            {"providers": [{"name": "bio", "kind": "transformer", "model": "dmis-lab/biobert-v1.1"}]},
            "key 'revision': found None, expected the 40 hexadecimal digits",
        ),
        ({"texts": "none.tsv"}, "key 'gene_text.texts': found no file none.tsv"),
        (
            {"representations": [{"name": "pca", "path": "x", "key": "y"}]},
            "found the name 'pca', expected another",
        ),
        ({"tis": {"embedding": "gene_text:nobody"}}, "found the provider 'nobody', expected one of tfidf"),
    ],
)
def test_a_mistake_gets_one_sentence(configured, changes, message):
    with pytest.raises(InputError, match=message):
        settings.check(configured(**changes))


def test_further_representations_lie_with_the_data_or_are_made_by_a_rule(configured):
    found = configured() | {"data_root": "data"}
    assert settings.obsm_files(found, "scvi/{sample}.h5ad", ["a", "b"]) == [
        "data/scvi/a.h5ad",
        "data/scvi/b.h5ad",
    ]
    assert settings.obsm_files(found, "results/demo/scvi.h5ad", ["a", "b"]) == ["results/demo/scvi.h5ad"]


def test_a_table_has_no_sentences(configured, root):
    table = {"name": "genept", "kind": "table", "path": "config/samples.tsv"}
    found = configured(providers=[table])
    settings.check(found)
    names = [name for name, setting in settings.representations(found) if setting["source"] == "text"]
    assert names == ["genept_weighted", "genept_permuted"]

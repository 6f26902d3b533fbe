"""The g:Profiler source against a local server that answers in the service's shape, faults included."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from interptfm import ontology
from interptfm.errors import InputError
from interptfm.ontology import diff, gprofiler

PANEL = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "TWO", "ZZZ"]
ENSEMBL = {symbol: [f"ENSG{i:03d}"] for i, symbol in enumerate(PANEL[:6])} | {"TWO": ["ENSG100", "ENSG101"]}
ENSGS = [ensg for found in ENSEMBL.values() for ensg in found]


def term(native, source, name, evidence, parents=()):
    """Return one result: ``evidence`` maps Ensembl ids to their codes."""
    return {
        "description": name, "effective_domain_size": 20000, "intersection_size": len(evidence),
        "intersections": [evidence.get(ensg, []) for ensg in ENSGS], "name": name, "native": native,
        "p_value": 1.0, "parents": list(parents), "precision": 0.1, "query": "query_1", "query_size": 7,
        "recall": 0.1, "significant": False, "source": source, "source_order": 1, "term_size": 100,
        "goshv": 0.1, "group_id": 1, "highlighted": False,
    }  # fmt: skip


def answer(results):
    genes = {"failed": ["ZZZ"], "ambiguous": {}, "duplicates": {}}
    genes["query"] = {"query_1": {"ensgs": ENSGS, "mapping": ENSEMBL}}
    queries = {"query_1": PANEL}
    meta = {"genes_metadata": genes, "query_metadata": {"queries": queries}, "version": "e111_eg58_p18_test"}
    meta |= {"timestamp": "2024-02-15T10:00:00", "result_metadata": {}}
    return {"meta": meta, "result": results}


RESULTS = [
    term("GO:1", "GO:BP", "upper", {e: ["IDA"] for e in ENSGS[:4]}),
    term(
        "GO:2",
        "GO:BP",
        "lower",
        {"ENSG000": ["IDA", "IEA"], "ENSG001": ["IEA"], "ENSG101": ["IMP"]},
        ["GO:1"],
    ),
    term("KEGG:1", "KEGG", "pathway", {"ENSG002": ["KEGG"], "ENSG003": ["KEGG"]}, ["KEGG:0"]),
]


class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, request))
        kind = self.server.plan.pop(0) if self.server.plan else "good"
        if kind == "slow":
            time.sleep(0.6)
        status = 500 if kind == "error" else 200
        body = {"malformed": b"<html>busy", "error": b'{"message": "worker died"}'}.get(kind)
        results = [] if kind == "empty" else RESULTS
        self.send_response(status)
        self.end_headers()
        try:
            self.wfile.write(json.dumps(answer(results)).encode() if body is None else body)
        except BrokenPipeError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.plan, server.seen = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/gprofiler_archive3/test"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def ask(service, tmp_path=None, **options):
    settings = {"base_url": service.url, "timeout": 0.3, "pause": 0.01, "cache": tmp_path}
    return gprofiler.from_gprofiler(PANEL, **{**settings, "min_genes": 2, "max_fraction": 0.9, **options})


def test_one_query_gives_terms_membership_and_graph(service):
    found = ask(service)
    (path, request), *more = service.seen
    assert not more and path == "/gprofiler_archive3/test/api/gost/profile/"
    assert request["all_results"] is True and request["no_evidences"] is False
    assert request["background"] == request["query"] == PANEL and request["domain_scope"] == "custom"
    assert request["organism"] == "hsapiens" and "KEGG" in request["sources"]
    table = found.membership.toarray()
    members = {
        t: {PANEL[i] for i in np.flatnonzero(table[:, j])} for j, t in enumerate(found.terms["term_id"])
    }
    # IEA alone does not count; the symbol with two genes has the term of either.
    assert members == {"GO:1": set(PANEL[:4]), "GO:2": {"AAA", "TWO"}, "KEGG:1": {"CCC", "DDD"}}
    edges = set(zip(found.dag["child"], found.dag["parent"], strict=True))
    assert edges == {("GO:2", "GO:1"), ("KEGG:1", "KEGG:0")}
    assert found.query["versions"]["gprofiler"] == "e111_eg58_p18_test"
    assert found.query["genes_not_recognised"] == ["ZZZ"] and found.query["raw"]["result"]


@pytest.mark.parametrize("faults", [["error"], ["slow", "malformed"], ["error", "slow", "malformed"]])
def test_faults_are_retried(service, faults):
    service.plan = list(faults)
    assert len(ask(service).terms) == 3
    assert len(service.seen) == len(faults) + 1


@pytest.mark.parametrize(
    "fault, words", [("error", "worker died"), ("slow", "Timeout"), ("malformed", "JSON")]
)
def test_a_lasting_fault_is_one_sentence_that_names_the_offline_sources(service, fault, words):
    service.plan = [fault] * 10
    with pytest.raises(InputError, match="4 attempts") as error:
        ask(service)
    text = str(error.value)
    assert words in text and "obo_gaf or gprofiler_csv" in text and "\n" not in text
    assert len(service.seen) == 4


def test_without_network_the_sentence_is_the_same():
    with pytest.raises(InputError, match="without network use"):
        gprofiler.from_gprofiler(PANEL, base_url="http://127.0.0.1:9", timeout=0.2, pause=0.0)


def test_an_empty_answer_is_refused(service):
    service.plan = ["empty"]
    with pytest.raises(InputError, match="found no term"):
        ask(service)


def test_the_same_request_is_answered_from_the_cache(service, tmp_path):
    first, second = ask(service, tmp_path), ask(service, tmp_path)
    assert len(service.seen) == 1
    pd.testing.assert_frame_equal(first.terms, second.terms)
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    assert kept["raw"]["result"] and kept["meta"]["version"] and len(kept["retrieved"]) == 10
    ask(service, tmp_path, sources=["KEGG"])
    assert len(service.seen) == 2
    for other in tmp_path.glob("*.json"):
        other.write_text("{")
    with pytest.raises(InputError, match="cached"):
        ask(service, tmp_path)


def test_the_client_is_left_as_it_was(service):
    from gprofiler import gprofiler as client

    before = client.requests
    ask(service)
    assert client.requests is before


def test_build_takes_the_source_from_the_settings(service):
    settings = {"source": "gprofiler", "evidence": ["IDA"], "min_genes": 2, "max_fraction": 0.9}
    settings |= {"keep_without_evidence": ["KEGG"], "aspects": ["P"]}
    settings["gprofiler"] = {"base_url": service.url, "timeout": 1.0, "cache": None}
    settings["gprofiler"] |= {"organism": "hsapiens", "sources": ["GO:BP", "KEGG"]}
    found = ontology.build(PANEL, settings)
    assert found.terms["term_id"].tolist() == ["GO:1", "KEGG:1"]


def version(membership, ids, members=None):
    names = [f"name of {one}" for one in ids]
    frame = pd.DataFrame({"term_id": ids, "name": names, "members": members or [[one] for one in ids]})
    return diff.Version(frame, csr_matrix(np.array(membership, bool)), list("ABCD"))


def test_diff_of_two_versions_by_hand():
    old = version([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0]], ["T1", "T2", "T3"])
    new = version([[1, 1], [1, 1], [1, 0], [0, 1]], ["T1", "T2"], [["T1", "T4"], ["T2"]])
    terms, memberships, summary = diff.compare(old, new)
    status = dict(zip(terms["term_id"], terms["status"], strict=True))
    assert status == {"T1": "changed", "T2": "changed", "T3": "removed", "T4": "added"}
    changes = set(memberships.itertuples(index=False, name=None))
    assert changes == {("C", "T1", "gained"), ("A", "T2", "gained"), ("C", "T2", "lost")}
    assert (summary["n_gained"], summary["n_lost"], summary["n_same"]) == (2, 1, 0)
    assert terms.set_index("term_id").loc["T1", "jaccard"] == pytest.approx(2 / 3)

    def summaries(mean):
        return [
            {"layer": 1, "headline": {"cell_held_out": {"n": 3, "f1": {"mean": mean, "excess": mean / 2}}}}
        ]

    row = diff.headline(summaries(0.4), summaries(0.5)).iloc[0]
    assert row["difference"] == pytest.approx(0.1) and row["new_excess"] == 0.25

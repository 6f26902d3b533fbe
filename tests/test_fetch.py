"""Downloads against a local server that fails in the ways servers do."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from interptfm import fetch
from interptfm.errors import InputError

CONTENT = bytes(range(256)) * 1200
FLAT_FILES = {f"S1_{name}": f"fov,cell_ID\n1,{i}\n".encode() for i, name in enumerate(fetch.SECTION_FILES)}
QUICK = {"attempts": 3, "timeout_s": 0.5, "wait_s": 0.01}


def archive(members, suffix="gz"):
    """Return the bytes of a tar archive of (name, content) pairs; a content (type,) is a link or device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{suffix}") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content[0], "/etc/passwd"
                tar.addfile(info)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serve ``server.files``; the first path component names the fault."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        _, fault, name = self.path.split("/", 2)
        content = self.server.files[name]
        self.server.requests[self.path].append(self.headers.get("Range"))
        count = len(self.server.requests[self.path])
        self.close_connection = True
        if fault == "absent":
            return self.send_error(404)
        if fault == "broken" and count == 1:
            return self.send_error(500)
        if fault == "down":
            return self.send_error(503)
        if fault == "hanging" and count == 1:
            return time.sleep(1.5)
        start, wanted = 0, self.headers.get("Range")
        etag = '"2"' if fault == "changed" and count > 1 else '"1"'
        if wanted and fault != "no-range" and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", etag)
        if fault != "no-length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if (fault in ("cut", "no-range", "changed") and count == 1) or fault == "always-cut":
            end = start + 1000 if fault == "always-cut" and count > 1 else len(content) // 2
        if fault == "stuck":
            end = len(content) // 2
        if fault == "changed" and count == 1:
            content = bytes(len(content))
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if fault == "reset" and count == 1:
            self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch):
    """A local server and its address; ``files`` and ``requests`` are to be set and read by the test."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.files = {"data": CONTENT, "s1.tar.gz": archive(FLAT_FILES.items())}
    running.requests = defaultdict(list)
    running.url = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join(timeout=10)
    running.server_close()


def item(url, **other):
    """Return a manifest row for ``url``: a plain file of unknown hash and size unless told otherwise."""
    row = {"name": "S1", "kind": "file", "sha256": None, "bytes": None, "licence": "CC0", "path": "go/data"}
    return fetch.Item(**{**row, "url": url, **other})


def got(server, fault, tmp_path, **other):
    """Download the test file with ``fault`` in the way; return (content, record, ranges asked for)."""
    part = tmp_path / "work" / "S1.part"
    record = fetch.download(item(f"{server.url}/{fault}/data", **other), part, **QUICK)
    return part.read_bytes(), record, server.requests[f"/{fault}/data"]


def test_a_download_is_recorded(server, tmp_path):
    content, record, ranges = got(server, "plain", tmp_path)
    assert content == CONTENT and ranges == [None]
    assert record == {
        "url": f"{server.url}/plain/data",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "bytes": len(CONTENT),
        "licence": "CC0",
        "etag": '"1"',
        "last_modified": None,
    }


@pytest.mark.parametrize("fault", ["broken", "hanging", "no-length"])
def test_what_passes_is_tried_again(server, tmp_path, fault):
    content, _, ranges = got(server, fault, tmp_path, bytes=len(CONTENT))
    assert content == CONTENT and len(ranges) == (1 if fault == "no-length" else 2)


def test_a_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    content, _, ranges = got(server, "cut", tmp_path)
    assert content == CONTENT and ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_later_call_resumes_too(server, tmp_path):
    one = item(f"{server.url}/stuck/data")
    part = tmp_path / "S1.part"
    with pytest.raises(InputError, match="no way to download"):
        fetch.download(one, part, attempts=1, timeout_s=0.5, wait_s=0)
    assert part.stat().st_size == len(CONTENT) // 2
    fetch.download(item(f"{server.url}/plain/data"), part, **QUICK)
    assert part.read_bytes() == CONTENT
    assert server.requests["/plain/data"] == [f"bytes={len(CONTENT) // 2}-"]


def test_progress_resets_the_count_of_failures(server, tmp_path):
    server.files["data"] = CONTENT[:8000]
    part = tmp_path / "S1.part"
    fetch.download(item(f"{server.url}/always-cut/data"), part, **QUICK)
    assert part.read_bytes() == CONTENT[:8000]
    assert len(server.requests["/always-cut/data"]) == 5 > QUICK["attempts"]


@pytest.mark.parametrize("fault", ["no-range", "changed"])
def test_a_server_that_cannot_resume_starts_anew(server, tmp_path, fault):
    content, _, ranges = got(server, fault, tmp_path)
    assert content == CONTENT and ranges[1] is not None


FAILURES = {
    "absent": ({}, "found HTTP status 404 (Not Found), expected the file; correct its address"),
    "down": ({}, "in 3 attempts (HTTP status 503 (Service Unavailable)), expected a network connection"),
    "plain": ({"sha256": "0" * 64}, f"expected {'0' * 64} as in the manifest; nothing was kept"),
    "cut": ({"bytes": 7}, f"found {len(CONTENT)} bytes, expected 7 as in the manifest"),
    "no-length": ({"bytes": len(CONTENT) + 1}, f"the connection ended after {len(CONTENT)} of"),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failure_is_one_sentence(server, tmp_path, fault):
    other, message = FAILURES[fault]
    with pytest.raises(InputError) as error:
        got(server, fault, tmp_path, **other)
    assert message in str(error.value) and f"{server.url}/{fault}/data" in str(error.value)
    assert "\n" not in str(error.value)
    if fault == "plain":
        assert not (tmp_path / "work/S1.part").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_without_network_it_says_what_to_do(tmp_path, monkeypatch, host):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://{host}:{closed.getsockname()[1]}/data"
        with pytest.raises(InputError) as error:
            fetch.download(item(url), tmp_path / "S1.part", **QUICK)
    assert url in str(error.value)
    assert "download it on another machine and place it at go/data under the data folder" in str(error.value)


def test_a_section_is_unpacked_and_the_download_removed(server, tmp_path):
    section = item(f"{server.url}/cut/s1.tar.gz", kind="section", path="nsclc/S1")
    server.files["s1.tar.gz"] = archive(
        [("S1/images/x.jpg", b"x" * 5000), *((f"S1/S1-Flat/{n}", c) for n, c in FLAT_FILES.items())]
    )
    outputs = section.files(tmp_path / "data")
    record = fetch.fetch(section, outputs, tmp_path / "work", **QUICK)
    assert {Path(path).name: Path(path).read_bytes() for path in outputs} == FLAT_FILES
    assert list((tmp_path / "work").iterdir()) == []
    folder = tmp_path / "data/nsclc/S1"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FLAT_FILES, "S1.fetch.json"])
    assert json.loads((folder / "S1.fetch.json").read_text()) == record
    assert record["sha256"] == hashlib.sha256(server.files["s1.tar.gz"]).hexdigest()


GOOD = list(FLAT_FILES.items())
BAD_ARCHIVES = {
    "absolute": ([*GOOD, ("/tmp/interptfm_evil", b"x")], "found the member path '/tmp/interptfm_evil'"),
    "parent": ([("../S1_exprMat_file.csv", b"x"), *GOOD], "found the member path '../S1_exprMat_file.csv'"),
    "symlink": ([*GOOD[1:], (GOOD[0][0], (tarfile.SYMTYPE,))], "a link or device, expected files; refused"),
    "hardlink": ([("etc", (tarfile.LNKTYPE,)), *GOOD], "a link or device, expected files; refused"),
    "device": ([("null", (tarfile.CHRTYPE,)), *GOOD], "a link or device, expected files; refused"),
    "twice": ([*GOOD, (f"other/{GOOD[0][0]}", b"x")], f"found two members {GOOD[0][0]}, expected one"),
    "missing": (GOOD[:2], f"found no member {GOOD[2][0]}, expected one in the archive"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_an_archive_is_not_trusted(server, tmp_path, case):
    members, message = BAD_ARCHIVES[case]
    server.files["s1.tar.gz"] = archive(members)
    section = item(f"{server.url}/plain/s1.tar.gz", kind="section", path="nsclc/S1")
    with pytest.raises(InputError) as error:
        fetch.fetch(section, section.files(tmp_path / "data"), tmp_path / "work", **QUICK)
    assert message in str(error.value) and section.url in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()], "something was kept"
    assert not Path("/tmp/interptfm_evil").exists()


@pytest.mark.parametrize("damage", ["truncated", "garbled", "not an archive"])
def test_a_damaged_archive_is_an_error(server, tmp_path, damage):
    noise = hashlib.shake_256(b"noise").digest(40_000)
    whole = archive([("x", noise), *GOOD])
    server.files["s1.tar.gz"] = {
        "truncated": whole[: len(whole) // 2],
        "garbled": whole[:20_000] + b"\0" * 200 + whole[20_200:],
        "not an archive": b"<html>please log in</html>" * 100,
    }[damage]
    section = item(f"{server.url}/plain/s1.tar.gz", kind="section", path="nsclc/S1")
    with pytest.raises(InputError, match=r"damaged or truncated archive|cut short|no member"):
        fetch.fetch(section, section.files(tmp_path / "data"), tmp_path / "work", **QUICK)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_no_program_can_download_is_asked_for(tmp_path):
    model = item("https://example.org/model", kind="by_hand", path="scgpt_human")
    with pytest.raises(InputError) as error:
        fetch.fetch(model, model.files(tmp_path), tmp_path / "work")
    assert str(tmp_path / "scgpt_human") in str(error.value) and "best_model.pt" in str(error.value)


HEADER = "\t".join(fetch.COLUMNS)
ROW = ["a", "file", "https://example.org/a", "", "", "CC0", "a/b"]
BAD_ROWS = {
    "kind": (1, "zip", "found kind 'zip', expected one of section, file, by_hand"),
    "scheme": (2, "file:///etc/passwd", "expected http or https"),
    "hash": (3, "xyz", "expected 64 hexadecimal digits"),
    "size": (4, "-3", "expected a whole number"),
    "absolute path": (6, "/etc/cron.d/x", "expected one inside the data folder"),
    "parent path": (6, "a/../../x", "expected one inside the data folder"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_of_the_manifest_is_named(tmp_path, case):
    column, value, message = BAD_ROWS[case]
    row = [value if i == column else cell for i, cell in enumerate(ROW)]
    path = tmp_path / "manifest.tsv"
    path.write_text("\n".join([HEADER, "\t".join(ROW), "\t".join(row)]) + "\n")
    with pytest.raises(InputError) as error:
        fetch.read_manifest(path)
    assert f"{path}: row 3: " in str(error.value) and message in str(error.value)


def test_the_manifest_names_all_that_the_full_setting_needs(root):
    manifest = fetch.read_manifest(root / "resources/manifest.tsv")
    kinds = [one.kind for one in manifest.values()]
    assert kinds.count("section") == 8 and kinds.count("file") == 2 and kinds.count("by_hand") == 1
    assert all(one.licence for one in manifest.values())
    provided = fetch.provided_files(manifest, "data")
    assert "data/cosmx_nsclc/Lung13/Lung13_exprMat_file.csv" in provided
    assert {
        "data/go/go-basic.obo",
        "data/go/goa_human.gaf.gz",
        "data/scgpt_human/args.json",
    } <= provided.keys()

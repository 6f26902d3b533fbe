"""The full public setting: it plans without its data, and its fetch rules bring what is not there."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import planning
import pytest
import yaml
from planning import planned

from interptfm import fetch


def snakemake(folder, *arguments, config="config/cosmx_nsclc.yaml"):
    """Run Snakemake in ``folder`` and return (exit code, all it printed)."""
    done = planning.snakemake(folder, *arguments, config=config)
    return done.returncode, done.stdout + done.stderr


def test_the_full_setting_plans_without_its_data(root, tmp_path):
    code, text = snakemake(root, "--dry-run", "--config", f"data_root={tmp_path}")
    # The checkpoint's place does not follow data_root, and there it is not fetched.
    assert code == 1 and "key 'model.checkpoint': found no file data/scgpt_human/args.json" in text
    code, text = snakemake(root, "--dry-run")
    assert code == 0, text
    jobs = planned(text)
    assert jobs["ingest"] == 8 and jobs["train_dictionary"] == 12 + 2 and jobs["extract"] == 4 * 40
    if not (root / "data").exists():
        assert jobs["fetch_section"] == 8 and jobs["fetch_file"] == 2 and jobs["fetch_by_hand"] == 1
    code, text = snakemake(root, "--dry-run", "fetch")
    assert code == 0 and planned(text).keys() <= {
        *("fetch", "fetch_section", "fetch_file", "fetch_by_hand"),
    }


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def public(root, tmp_path, monkeypatch):
    """A copy of the project whose manifest names a local server; returns (folder, overlay, served folder)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served, folder = tmp_path / "served", tmp_path / "project"
    served.mkdir()
    with tarfile.open(served / "L1.tar.gz", "w:gz") as tar:
        for file in fetch.SECTION_FILES:
            info = tarfile.TarInfo(f"L1/L1-Flat_files_and_images/L1_{file}")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"a,b\n"))
    (served / "go.obo").write_text("format-version: 1.2\n")
    (served / "goa.gaf.gz").write_bytes(gzip.compress(b"!gaf-version: 2.2\n", mtime=0))
    for part in ("workflow", "scripts", "config", "resources", "envs"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    rows = [
        ["L1", "section", f"{url}/L1.tar.gz", "", "", "CC0", "nsclc/L1"],
        ["go", "file", f"{url}/go.obo", "", "", "CC0", "go/go.obo"],
        ["goa", "file", f"{url}/goa.gaf.gz", "", "", "CC0", "go/goa.gaf.gz"],
        ["scgpt", "by_hand", "https://example.org/scgpt", "", "", "MIT", "scgpt"],
    ]
    (folder / "manifest.tsv").write_text("\n".join("\t".join(row) for row in [fetch.COLUMNS, *rows]) + "\n")
    sheet = (
        "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards\nL1\tnsclc/L1\tcosmx\td\t0.18\t\t2\n"
    )
    (folder / "samples.tsv").write_text(sheet)
    setting = yaml.safe_load((root / "config/cosmx_nsclc.yaml").read_text())
    setting |= {"run": "public", "samples": "samples.tsv"}
    setting["fetch"] = {"enabled": True, "manifest": "manifest.tsv"}
    setting["ontology"] |= {"obo": "go/go.obo", "gaf": "go/goa.gaf.gz"}
    setting["model"]["checkpoint"] = "data/scgpt"
    (folder / "public.yaml").write_text(yaml.safe_dump(setting))
    yield folder
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def test_fetch_brings_the_data_once_and_asks_for_the_model(public):
    model = public / "data/scgpt"
    model.mkdir(parents=True)
    (model / "args.json").write_text('{"nlayers": 6}')
    code, text = snakemake(public, "--keep-going", "fetch", config="public.yaml")
    assert code == 1 and "Traceback" not in text
    assert "found no model checkpoint, expected args.json, vocab.json, best_model.pt" in text
    assert (model / "args.json").read_text() == '{"nlayers": 6}', "what a person placed was removed"
    for path in ("nsclc/L1/L1_exprMat_file.csv", "nsclc/L1/L1.fetch.json", "go/go.obo", "go/goa.gaf.gz"):
        assert (public / "data" / path).is_file(), path
    for name in ("vocab.json", "best_model.pt"):
        (model / name).write_text("{}")
    code, text = snakemake(public, "fetch", config="public.yaml")
    assert code == 0 and "fetch_section" not in planned(text), text
    # The checkpoint is there and now decides on the layers: those of its args.json.
    code, text = snakemake(public, "--dry-run", config="public.yaml")
    assert code == 0, text
    assert "Nothing" not in text and planned(text).get("train_dictionary") == 6 + 2


def test_data_placed_by_hand_is_not_downloaded_again(public):
    for path in (*(f"nsclc/L1/L1_{file}" for file in fetch.SECTION_FILES), "go/go.obo", "go/goa.gaf.gz"):
        place = public / "data" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("placed\n")
    code, text = snakemake(public, "--dry-run", "fetch", config="public.yaml")
    assert code == 0 and planned(text) == {"fetch": 1, "fetch_by_hand": 1}, text
    # Neither a newer script nor --forceall may delete what a person placed, to download it again.
    (public / "scripts/fetch.py").touch()
    code, text = snakemake(public, "--dry-run", "--forceall", "fetch", config="public.yaml")
    assert code == 0 and planned(text) == {"fetch": 1, "fetch_by_hand": 1}, text
    model = public / "data/scgpt"
    model.mkdir(parents=True)
    for name in ("args.json", "vocab.json", "best_model.pt"):
        (model / name).write_text('{"nlayers": 6}')
    code, text = snakemake(public, "--forceall", "fetch", config="public.yaml")
    assert code == 0 and (public / "data/go/go.obo").read_text() == "placed\n", text

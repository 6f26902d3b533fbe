"""The report in a headless Chromium, opened from disk: as a person would use it."""

from __future__ import annotations

import base64
import time

import chromium
import pytest
import test_report as fabricated

from interptfm import report

pytestmark = pytest.mark.soak

inputs = fabricated.inputs
LINKS = "[...document.querySelectorAll('a[download]')]"


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    assert chromium.executable(), "found no Chromium, expected Debian's package chromium"
    arguments = {**inputs, "atlas": "atlas/index.html"}
    html, figures = report.build(report.read(arguments.pop("index"), **arguments))
    folder = tmp_path_factory.mktemp("page")
    (folder / "saved").mkdir()
    (folder / "atlas").mkdir()
    (folder / "atlas/index.html").write_text(
        "<!DOCTYPE html><title>atlas</title><link rel=icon href='data:,'>"
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    with chromium.Browser() as browser:
        browser.address = (folder / "report.html").as_uri()
        browser.folder, browser.figures = folder, figures
        browser.save_into(folder / "saved")
        yield browser


@pytest.fixture(autouse=True)
def fresh(page):
    page.requests.clear()
    page.open("about:blank")
    page.open(page.address)
    page.wait("document.readyState === 'complete' && document.querySelector('figure svg') !== null")
    yield
    assert page.problems == []
    assert {url for url in page.requests if not url.startswith(("data:", "about:"))} <= {
        page.address,
        page.address.replace("report.html", "atlas/index.html"),
    }


def test_names_are_text_and_nothing_is_wider_than_the_window(page):
    assert page.run("document.scripts.length") == 0
    text = page.run("document.body.textContent")
    assert fabricated.EVIL in text and fabricated.LONG in text
    assert page.run("document.querySelectorAll('figure svg').length") == len(page.figures)
    for width in (1400, 500):
        page.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), width
    page.send("Emulation.clearDeviceMetricsOverride")


def test_every_figure_is_drawn_and_named(page):
    drawn = page.run("""[...document.querySelectorAll('figure svg')].map((svg) => {
      const {width, height} = svg.getBoundingClientRect();
      const named = svg.getAttribute('aria-labelledby').split(' ').map((id) => document.getElementById(id));
      return [width, height, named.every((node) => node && node.textContent.length > 5)];
    })""")
    assert all(width > 50 and height > 15 and named for width, height, named in drawn)


def saved(page, name, patience=20.0):
    """Click a download and return the file that arrives."""
    path, end = page.folder / "saved" / name, time.monotonic() + patience
    page.run(f"{LINKS}.find((link) => link.download === {name!r}).click()")
    while not path.is_file():
        assert time.monotonic() < end, f"{name} did not arrive in {patience} s"
        time.sleep(0.05)
    return path.read_bytes()


def test_downloads_of_a_figure_its_data_and_a_table(page):
    name = "recovery-programs"
    assert saved(page, f"{name}.svg").decode() == page.figures[f"{name}.svg"]
    for table in (f"{name}.tsv", "headline.tsv"):
        offered = page.run(f"{LINKS}.find((link) => link.download === {table!r}).href").split(",")[1]
        text = saved(page, table).decode()
        assert text == base64.b64decode(offered).decode()
        lines = text.rstrip("\n").split("\n")
        assert len(lines) > 3 and len({line.count("\t") for line in lines}) == 1
    kinds = page.run(f"{LINKS}.map((link) => link.download.split('.').pop())")
    assert set(kinds) == {"svg", "tsv"} and kinds.count("tsv") > kinds.count("svg") == len(page.figures)


def test_sections_open_by_their_links_and_tables_unfold(page):
    keys = page.run("[...document.querySelectorAll('nav a')].map((link) => link.hash.slice(1))")
    assert keys[0] == "overview" and page.run(
        f"{keys!r}.every((key) => document.getElementById(key).matches('section'))"
    )
    page.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_atlas_is_one_click_away(page):
    page.run("document.querySelector('.banner a').click()")
    page.wait("document.title === 'atlas'")


def test_contrast_of_text_is_aa(page):
    page.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert 4.5 <= page.least_contrast() < 21

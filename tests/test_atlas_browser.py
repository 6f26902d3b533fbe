"""The feature atlas in a headless Chromium, opened from disk: as a person would use it."""

from __future__ import annotations

import atlas_world
import chromium
import pytest

pytestmark = pytest.mark.soak

ROWS = "document.querySelectorAll('#body tr[data-place]')"
STATUS = "document.getElementById('status').textContent"
OPENED = "!document.getElementById('feature').hidden && document.querySelector('canvas')?.dataset.section"
# Downloads of the page's own making are read where they are made.
SPY = """
window.saved = [];
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => { blob.text().then((text) => window.saved.push(text)); return make(blob); };
const click = HTMLAnchorElement.prototype.click;
HTMLAnchorElement.prototype.click = function () { if (!this.download) click.call(this); };
window.alert = () => (window.alerted = true);
true
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    assert chromium.executable(), "found no Chromium, expected Debian's package chromium"
    folder = tmp_path_factory.mktemp("atlas")
    spaces = atlas_world.write(folder, n_features=700)
    with chromium.Browser() as browser:
        browser.spaces, browser.folder = spaces, folder / "atlas"
        browser.address = (folder / "atlas/index.html").as_uri()
        yield browser


@pytest.fixture(autouse=True)
def fresh(page):
    page.open("about:blank")
    page.open(page.address)
    page.wait(f"{ROWS}.length > 0 && !{STATUS}.includes('loaded')")
    page.run(SPY)
    yield
    assert page.problems == []
    assert all(url.startswith(("file:", "blob:", "data:", "about:")) for url in page.requests)
    assert not page.run("window.alerted"), "a name became a script"


def write(page, name, value):
    page.run(
        f"{{ const field = document.getElementById({name!r}); field.value = {value!r}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); }"
    )


def column(page, kind):
    return page.run(f"[...{ROWS}].map((row) => row.querySelector('.{kind}')?.textContent)")


def test_only_the_rows_in_view_are_there(page):
    assert page.run(STATUS) == "1\u202f398 of 1\u202f400 features"  # two never fire
    assert page.run(f"{ROWS}.length") < 60
    page.run("document.getElementById('rows').scrollTop = 1e9")
    page.wait(f"[...{ROWS}].some((row) => row.dataset.place === '1397')")
    assert page.run("document.getElementById('table').getAttribute('aria-rowcount')") == "1399"


def test_search_and_filters(page):
    write(page, "search", "l1/123")
    assert page.run(STATUS).startswith("1 of")
    assert page.run(f"{ROWS}[0].querySelector('a').textContent") == "L1 · 123"
    write(page, "search", "alert('x')")
    evil = 0  # by a term of that name, or by the cell type
    for i, each in enumerate(page.spaces):
        types = page.run(f"Atlas.json('space_{i}/table').then((found) => found.type)")
        named = page.run("Atlas.meta.groups.findIndex((group) => group[1].includes('alert'))")
        by_term = set(each.pairs.loc[each.pairs["term_id"] == "GO:0000000", "feature"])
        evil += len(by_term | {feature for feature, kind in enumerate(types) if kind == named})
    assert evil > 0 and page.run(STATUS).replace("\u202f", "").startswith(f"{evil} of")
    write(page, "search", "no such word")
    assert page.run(STATUS).startswith("0 of") and page.run(f"{ROWS}.length") == 0
    write(page, "search", "")
    write(page, "space", "1")
    assert page.run(STATUS).startswith("699 of")
    write(page, "min-f1", "0.5")
    first = page.spaces[1].pairs.groupby("feature")["f1"].first()
    assert page.run(STATUS).startswith(f"{(first.round(4) >= 0.5).sum()} of")
    page.run("document.getElementById('passed').click()")
    passed = page.spaces[1].pairs.groupby("feature")["interpretable"].any()
    assert page.run(STATUS).startswith(f"{(passed & (first.round(4) >= 0.5)).sum()} of")


def test_sorting_by_every_heading(page):
    heads = page.run("[...document.querySelectorAll('#heads th')].map((head) => head.dataset.key)")
    assert heads[:3] == ["feature", "layer", "rate"]
    for key in heads:
        page.run(f"document.querySelector('#heads th[data-key={key}] button').click()")
        order = page.run(f"document.querySelector('#heads th[data-key={key}]').getAttribute('aria-sort')")
        assert order in ("ascending", "descending")
    page.run("document.querySelector('#heads th[data-key=rate] button').click()")
    rates = [each.histogram.sum(axis=1)[1:] / 1e6 for each in page.spaces]
    shown = [float(text.replace("%", "").strip()) for text in page.run(
        f"[...{ROWS}].slice(0, 20).map((row) => row.children[2].textContent)")]  # fmt: skip
    expected = sorted((100 * value for rate in rates for value in rate), reverse=True)[:20]
    assert shown == pytest.approx(expected, abs=0.051)
    page.run("document.querySelector('#heads th[data-key=rate] button').click()")
    again = page.run(f"{ROWS}[0].children[2].textContent")
    assert float(again.replace("%", "")) < shown[0]


def test_the_keyboard_reaches_a_feature_and_comes_back(page):
    page.run(f"{ROWS}[0].querySelector('a').focus()")
    for _ in range(60):
        page.key("ArrowDown")
    assert page.run("document.activeElement.closest('tr').dataset.place") == "60"
    page.key("Home")
    name = page.run("document.activeElement.textContent")
    page.key("Enter")
    page.wait(OPENED)
    layer, feature = name.removeprefix("L").split(" · ")
    assert (
        page.run("document.getElementById('feature-title').textContent")
        == f"Feature {feature}, layer {layer}"
    )
    assert page.run("document.activeElement.id") == "feature-title"
    page.run("history.back()")
    page.wait("document.getElementById('feature').hidden && !document.getElementById('list').hidden")


def opened(page, layer, feature):
    page.run(f"location.hash = '#/batch%20%3Ctopk%3E/{layer}/{feature}'")
    page.wait(OPENED)


def pixels(page):
    return page.run("document.querySelector('canvas').toDataURL()")


def test_a_feature_s_page_with_hostile_names(page):
    opened(page, 1, 1)
    headings = page.run("[...document.querySelectorAll('#feature h3')].map((each) => each.textContent)")
    assert sorted(headings) == sorted(
        ["Tissue map", "Activation histogram", "Cell types and regions", "Concept pairs", "Top tokens",
         "Top genes", "Nearest features", "Steering"]
    )  # fmt: skip
    text = page.run("document.getElementById('feature').textContent")
    assert atlas_world.EVIL in text and '"cell" <0>' in text
    assert page.run("document.querySelectorAll('#feature script, #feature b, #feature i').length") == 0
    assert page.run("document.querySelectorAll('#feature svg[role=img]:not([aria-label])').length") == 0
    assert page.run("document.querySelector('canvas').getAttribute('aria-label')").startswith("Tissue map of")
    # Nothing is wider than the window, however long a name.
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_switching_the_section_draws_another_map(page):
    opened(page, 0, 55)
    before = pixels(page)
    page.run(
        "const choice = document.getElementById('section'); choice.value = '1'; "
        "choice.dispatchEvent(new Event('change'))"
    )
    page.wait("document.querySelector('canvas').dataset.section === '1'")
    assert pixels(page) != before
    assert "section '1' <i>" in page.run("document.querySelector('.tip').textContent")


def test_downloads(page):
    page.run("document.getElementById('download-list').click()")
    page.wait("window.saved.length === 1")
    lines = page.run("window.saved[0]").rstrip("\n").split("\n")
    assert len(lines) == 1399 and {line.count("\t") for line in lines} == {11}
    opened(page, 1, 77)
    buttons = page.run("document.querySelectorAll('#feature button.download').length")
    page.run("document.querySelectorAll('#feature button.download').forEach((each) => each.click())")
    page.wait(f"window.saved.length === 1 + {buttons}")
    for text in page.run("window.saved")[1:]:
        found = text.rstrip("\n").split("\n")
        assert len(found) > 1 and len({line.count("\t") for line in found}) == 1
    tokens = page.spaces[1].tokens
    mine = tokens[tokens["feature"] == 77]["cell"].tolist()
    table = next(text for text in page.run("window.saved") if text.startswith("rank\t"))
    assert [line.split("\t")[2] for line in table.rstrip("\n").split("\n")[1:]] == mine
    places = next(text for text in page.run("window.saved") if text.startswith("section\tx_um"))
    assert len(places.rstrip("\n").split("\n")) == 121


def test_a_neighbour_opens_by_its_link(page):
    opened(page, 0, 9)
    link = "[...document.querySelectorAll('#feature h3')].find((h) => h.textContent === 'Nearest features').parentElement.querySelector('a')"  # noqa: E501
    name = page.run(f"{link}.textContent").split(" · ")[1]
    page.run(f"{link}.click()")
    page.wait(f"document.getElementById('feature-title').textContent.startsWith('Feature {name},')")


def test_an_address_without_a_feature_is_said_in_a_sentence(page):
    page.run("location.hash = '#/nothing/0/1'")
    page.wait("!document.getElementById('notice').hidden")
    assert "There is no feature at" in page.run("document.getElementById('notice').textContent")
    assert not page.run("document.getElementById('list').hidden")


def test_contrast_of_text_is_aa(page):
    """Every text against the nearest opaque background: at least 4.5 to 1, as WCAG 2.2 asks of AA."""
    opened(page, 1, 3)
    page.run("document.getElementById('list').hidden = false")
    worst = page.least_contrast()
    assert 4.5 <= worst < 21

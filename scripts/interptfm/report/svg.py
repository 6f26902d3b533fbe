"""SVG text that is the same bytes on every run and can stand with others in one HTML page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from interptfm.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_REFERENCE = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")
_FONT = re.compile(r"font-family:[^;\"]*")


def save(figure: Figure, name: str) -> str:
    """Return ``figure`` as SVG text and close it.

    Text stays text (searchable, readable aloud, scaled by the reader's font), no date is written,
    and generated ids are salted with ``name``: the same figure gives the same bytes.
    """
    import io

    import matplotlib as mpl
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    plt.close(figure)
    # Laid out in DejaVu Sans, which matplotlib ships; shown in narrower fonts, so that text fits.
    return _FONT.sub(f"font-family: {FONTS}", buffer.getvalue())


def inline(text: str, prefix: str, title: str, description: str) -> str:
    """Return ``text`` as an ``<svg>`` element fit to stand inside HTML beside other figures.

    Every id gets ``prefix`` (matplotlib repeats its own in each figure), the document-wide style
    sheet becomes a style of the root, and the root gets role, title and description for screen
    readers. Width and height go: the page's style sheet scales the figure by its view box.

    Raises
    ------
    InputError
        If ``text`` is no SVG, carries a script, or refers to something outside of itself.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"figure {prefix}: found {error}, expected well-formed SVG") from error
    if root.tag != f"{{{SVG}}}svg":
        raise InputError(f"figure {prefix}: found root element {root.tag!r}, expected svg")
    if "viewBox" not in root.attrib:
        size = [re.sub(r"[a-z]+$", "", root.get(key, "")) for key in ("width", "height")]
        root.set("viewBox", f"0 0 {size[0]} {size[1]}")
    width = root.get("viewBox", "0 0 640 480").split()[2]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata", f"{{{SVG}}}title"):
                parent.remove(child)
            elif child.tag == f"{{{SVG}}}script":
                raise InputError(f"figure {prefix}: found a script, expected a drawing")
    for element in root.iter():
        _prefix_ids(element, prefix)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    # At most a little over its natural size (points at 96 dpi), else the text dwarfs the page's.
    root.set("style", f"max-width:{float(width) * 1.45:.0f}px;stroke-linejoin:round;stroke-linecap:butt")
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    for position, (tag, content) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = content
        root.insert(position, element)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _prefix_ids(element: ElementTree.Element, prefix: str) -> None:
    for key, value in list(element.attrib.items()):
        local = key.rsplit("}", 1)[-1].lower()
        if local.startswith("on"):
            raise InputError(f"figure {prefix}: found the handler {local!r}, expected a drawing")
        if local == "id":
            element.set(key, f"{prefix}-{value}")
        elif local == "href" and value.startswith("#"):
            element.set(key, f"#{prefix}-{value[1:]}")
        elif local == "href" and not value.startswith("data:image/png"):
            raise InputError(
                f"figure {prefix}: found a link to {value[:60]!r}, expected one inside the figure"
            )
        elif "url(" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))

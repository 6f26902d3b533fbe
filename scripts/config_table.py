"""Write the table of all configuration keys into a Markdown file, between its two markers."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- config table: begin (make readme) -->\n", "<!-- config table: end -->\n"


def updated(text: str) -> str:
    """Return ``text`` with the table between the markers made anew from the schema and the defaults."""
    from interptfm import config, schema

    table = schema.table(
        config.load_yaml(ROOT / "workflow/schemas/config.schema.yaml"),
        config.load_yaml(ROOT / "config/config.yaml"),
    )
    before, rest = text.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(updated(document.read_text()))

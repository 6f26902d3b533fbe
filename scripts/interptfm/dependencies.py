"""Which library files a module is made of, so that Snakemake reruns what an edit changes.

Snakemake does not follow Python imports: a rule declares its modules with ``lib(...)`` and this
module adds whatever those import from the package, read from the source without running it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = "interptfm"
DATA_SUFFIXES = (".css", ".html", ".js")


@cache
def imported(path: Path, library: Path) -> frozenset[Path]:
    """Return the files of the package that one source file imports, at any depth of its functions.

    A file is read once per process: most rules import the same modules, and every job reads all rules.

    Parameters
    ----------
    path
        The Python file to read.
    library
        The folder of the package.
    """
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                found |= _files(parts[1:], library)
    return frozenset(found)


def _files(parts: list[str], library: Path) -> set[Path]:
    """Return the file of a dotted name and the ``__init__`` files above it; nothing for other names."""
    files = {library / "__init__.py"}
    place = library
    for part in parts:
        if (place / part / "__init__.py").is_file():
            place = place / part
            files.add(place / "__init__.py")
        elif (place / f"{part}.py").is_file():
            files.add(place / f"{part}.py")
            break
        else:
            break
    return files


def closure(modules: Iterable[str], library: Path) -> list[Path]:
    """Return all files that the named modules (``"sae.training"``) consist of and import, sorted.

    A package (``"sae"``) stands for all of its modules.

    Raises
    ------
    FileNotFoundError
        If a named module does not exist.
    """
    todo: set[Path] = set()
    for name in modules:
        place = library.joinpath(*name.split("."))
        if not place.is_dir() and not place.with_suffix(".py").is_file():
            raise FileNotFoundError(f"lib({name!r}): no such module in {library}")
        todo |= _files(name.split("."), library)
        if place.is_dir():
            todo |= set(place.rglob("*.py"))
    done: set[Path] = set()
    while todo:
        path = todo.pop()
        done.add(path)
        todo |= imported(path, library) - done
    # Templates and style sheets beside a package's code are part of it.
    folders = {path.parent for path in done if path.name == "__init__.py"}
    data = {path for folder in folders for path in folder.iterdir() if path.suffix in DATA_SUFFIXES}
    return sorted(done | data)

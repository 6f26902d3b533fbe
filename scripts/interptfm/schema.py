"""What the configuration's schema says: one sentence for a mistake, the defaults, the table of all keys.

Plain JSON Schema but for tagged unions, where one key (:data:`TAGS`) chooses the others: ``architecture`` of
dictionaries, ``kind`` of providers of gene texts.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from interptfm.errors import InputError

Config = dict[str, Any]

TAGS = ("architecture", "kind")


def check(value: Any, schema: dict[str, Any], name: str) -> None:
    """Validate ``value`` against a JSON schema.

    Raises
    ------
    InputError
        One sentence on the most relevant violation: key, what was found, what was expected.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(value), key=lambda error: _rank(error, schema))
    if errors:
        raise InputError(f"{name}: {_sentence(errors[0], schema)}")


def referred(part: Config, schema: Config) -> Config:
    """Return a part of the schema with its ``$ref`` (to ``$defs``) laid under its own keys."""
    if "$ref" not in part:
        return part
    target = referred(schema["$defs"][part["$ref"].rsplit("/", 1)[1]], schema)
    own = {key: value for key, value in part.items() if key != "$ref"}
    return {**target, **own, "properties": {**target.get("properties", {}), **own.get("properties", {})}}


def tag_of(properties: Config) -> str | None:
    """Return the key that chooses a branch of a tagged union, given the branch's properties."""
    return next((tag for tag in TAGS if "const" in properties.get(tag, {})), None)


def branch_of(value: Config, part: Config, schema: Config) -> tuple[int, Config] | None:
    """Return number and content of the branch that a tagged union's tag chooses."""
    for number, branch in enumerate(part.get("oneOf", ())):
        branch = referred(branch, schema)
        properties = branch.get("properties", {})
        tag = tag_of(properties)
        if tag and value.get(tag) == properties[tag]["const"]:
            return number, branch
    return None


def _rank(error: Any, schema: Config) -> tuple[bool, int, str, bool]:
    """Sort key: shallow errors first, those that only follow from another one last.

    With a wrong tag no branch of a union holds; with a wrong value in a branch its keys count as foreign.
    """
    of_union = error.validator in ("oneOf", "unevaluatedProperties") and isinstance(error.instance, dict)
    untagged = of_union and branch_of(error.instance, error.schema, schema) is None
    return untagged, len(error.path), str(error.path), error.validator == "unevaluatedProperties"


def _union_sentence(error: Any, schema: Config) -> str | None:
    """Return the sentence on a tagged union's own mistake; None where its tag is the mistake."""
    found = branch_of(error.instance, error.schema, schema)
    if found is None:
        return None
    number, branch = found
    if error.validator == "unevaluatedProperties":
        common, own = error.schema["properties"], branch["properties"]
        foreign = next((key for key in error.instance if key not in {**common, **own}), None)
        if foreign is None:
            return None
        place = ".".join(str(part) for part in error.absolute_path)
        close = difflib.get_close_matches(str(foreign), {**common, **own}, 1)
        tag = tag_of(own)
        known = [key for key in own if key != tag]
        hint = f"did you mean {close[0]!r}?" if close else f"expected of {', '.join([*common, *known])}"
        return (
            f"key {place!r}: found the key {foreign!r}, which {tag} {error.instance[tag]!r} does not have; "
            f"{hint}"
        )
    inner = [each for each in error.context if each.schema_path[0] == number]
    inner.sort(key=lambda e: (len(e.path), str(e.path)))
    return _sentence(inner[0], schema) if inner else None


def _sentence(error: Any, schema: Config) -> str:
    if error.validator in ("oneOf", "unevaluatedProperties") and isinstance(error.instance, dict):
        sentence = _union_sentence(error, schema)
        if sentence:
            return sentence
    place = ".".join(str(part) for part in error.absolute_path)
    where = f"key {place!r}: " if place else ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(str(unknown), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return f"{where}found the unknown key {unknown!r}; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}found no key {missing!r}, expected it to be set"
    expected = {
        "type": lambda: f"expected {_words(error.validator_value)}",
        "enum": lambda: f"expected one of {_words(error.validator_value)}",
        "minimum": lambda: f"expected at least {error.validator_value}",
        "maximum": lambda: f"expected at most {error.validator_value}",
        "exclusiveMinimum": lambda: f"expected more than {error.validator_value}",
        "exclusiveMaximum": lambda: f"expected less than {error.validator_value}",
        "pattern": lambda: f"expected a match of {error.validator_value}",
        "oneOf": lambda: f"expected {error.schema.get('description', 'another value')}",
    }.get(error.validator, lambda: f"expected {error.validator} {error.validator_value}")
    return f"{where}found {error.instance!r}, {expected()}"


def _words(values: Any) -> str:
    return (
        ", ".join("null" if v is None else str(v) for v in values)
        if isinstance(values, list)
        else str(values)
    )


def with_defaults(config: Config, schema: Config) -> Config:
    """Return a valid configuration in which every member of a tagged union has all the keys of its kind."""

    def completed(value: Config, definition: str) -> Config:
        union = schema["$defs"][definition]
        _, branch = branch_of(value, union, schema)  # type: ignore[misc]  # it is valid
        parts = {**union["properties"], **branch["properties"]}
        defaults = {key: referred(part, schema).get("default", ...) for key, part in parts.items()}
        known = {key: each for key, each in defaults.items() if each is not ...}
        return {**known, **value}

    lists = {"dictionaries": [completed(each, "dictionary") for each in config["dictionaries"]]}
    if "extras" in config:
        frontier = [completed(each, "dictionary") for each in config["extras"]["frontier"]]
        lists["extras"] = {**config["extras"], "frontier": frontier}
    if "gene_text" in config:
        providers = [completed(each, "provider") for each in config["gene_text"]["providers"]]
        lists["gene_text"] = {**config["gene_text"], "providers": providers}
    return {**config, **lists}


def table(schema: dict[str, Any], defaults: Config) -> str:
    """Return the Markdown table of all keys: key, default, meaning (for the README)."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, description, default in _rows(schema, defaults, "", schema):
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|") if default is not ... else ""
        lines.append(f"| `{key}` | {f'`{shown}`' if shown else ''} | {description} |")
    return "\n".join(lines) + "\n"


def _rows(parent: dict[str, Any], value: Any, prefix: str, schema: Config) -> Iterable[tuple[str, str, Any]]:
    for key, part in parent["properties"].items():
        path = f"{prefix}{key}"
        inner = value[key] if isinstance(value, dict) and key in value else part.get("default", ...)
        items = referred(part.get("items", {}), schema)
        if part.get("type") == "object" and "properties" in part:
            yield path, part.get("description", ""), ...
            yield from _rows(part, inner, f"{path}.", schema)
        elif part.get("type") == "array" and "properties" in items:
            yield path, part.get("description", ""), ...
            if part.get("items", {}).get("$ref") and path == "extras.frontier":
                continue  # described once
            first = inner[0] if inner is not ... and inner else ...
            yield from _rows(items, first, f"{path}[].", schema)
            yield from _union_rows(items, first, f"{path}[].", schema)
        else:
            yield path, part.get("description", ""), inner


def _union_rows(union: Config, value: Any, prefix: str, schema: Config) -> Iterable[tuple[str, str, Any]]:
    """Yield the keys of a tagged union's branches, each once, with the tags that have it."""
    owners: dict[str, list[str]] = {}
    parts: dict[str, Config] = {}
    for branch in union.get("oneOf", ()):
        properties = referred(branch, schema)["properties"]
        tag = tag_of(properties)
        for key, part in properties.items():
            if key != tag:
                owners.setdefault(key, []).append(properties[tag]["const"])
                parts[key] = referred(part, schema)
    for key, part in parts.items():
        most = len(union["oneOf"]) - 1 == len(owners[key]) > 3
        tags = "all but imported" if most else ", ".join(owners[key])
        default = part.get("default", ...)
        inner = value[key] if isinstance(value, dict) and key in value else default
        yield f"{prefix}{key}", f"{part['description']} ({tags})", inner

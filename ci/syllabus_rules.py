"""What a syllabus must be: the shape in `syllabus.schema.json`, and the rules below it.

`problems` says in one line each what is wrong, where, and how to mend it.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

SCHEMA = Path(__file__).with_name("syllabus.schema.json")


def problems(document: Any) -> list[str]:
    """What is wrong with a parsed syllabus, one line each; [] if nothing is.

    The cross rules read fields, so they run only once the schema holds.
    """
    validator = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    errors = validator.iter_errors(_with_text_keys(document))
    by_schema = [line for error in errors for line in _explain(error, document)]
    return by_schema or [line for rule in RULES for line in rule(document)]


# --- cross rules: each takes a document that fits the schema, and yields problems ---


def _unique_names(document: dict) -> Iterator[str]:
    """No slug and no part twice: a slug is a folder's name, and keeps times apart."""
    topics = [topic["slug"] for topic in document["topics"]]
    guides = [guide["slug"] for guide in document.get("guides", [])]
    taken = [slug for slug in topics if slug in guides]
    for kind, names in (
        ("topic", topics),
        ("guide", guides + taken),
        ("part", [part["id"] for part in document["parts"]]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{kind} {name}: the name is used {count} times; rename all but 1"


def _known_parts_in_order(document: dict) -> Iterator[str]:
    """Every part exists, and topics stand in the order of the parts."""
    order = [part["id"] for part in document["parts"]]
    furthest = 0
    for topic in document["topics"]:
        slug, part = topic["slug"], topic["part"]
        if part not in order:
            yield f"topic {slug}: part is {part!r}; use one of {', '.join(order)}"
        elif order.index(part) < furthest:
            yield (
                f"topic {slug}: part {part!r} comes after {order[furthest]!r}; "
                "move the topic up to the others of its part"
            )
        else:
            furthest = order.index(part)


def _known_needs(document: dict) -> Iterator[str]:
    """Every need is a topic."""
    slugs = [topic["slug"] for topic in document["topics"]]
    for topic in document["topics"]:
        for need in topic["needs"]:
            if need not in slugs:
                hint = _suggest(need, slugs) or "use a slug of this file, or remove it"
                yield f"topic {topic['slug']}: needs has the unknown {need!r}; {hint}"


def _acyclic_needs(document: dict) -> Iterator[str]:
    """No topic needs itself, directly or by way of others."""
    graph = {topic["slug"]: topic["needs"] for topic in document["topics"]}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        *_, cycle = error.args  # each slug stands before one that needs it
        yield (
            f"topic {cycle[-1]}: needs goes in a circle, "
            f"{' needs '.join(reversed(cycle))}; remove one of these needs"
        )


def _papers_known_and_used(document: dict) -> Iterator[str]:
    """Every key that a topic reads is in `papers`, once a topic, and none is idle."""
    papers, read = document["papers"], set()
    for topic in document["topics"]:
        for key, count in Counter(paper["key"] for paper in topic["papers"]).items():
            read.add(key)
            if key not in papers:
                hint = _suggest(key, papers) or "add it to the papers at the end"
                yield f"topic {topic['slug']}: papers has the unknown {key!r}; {hint}"
            if count > 1:
                yield (
                    f"topic {topic['slug']}: papers has {key!r} {count} times; "
                    "join them into one"
                )
    for key in papers:
        if key not in read:
            yield f"paper {key}: no topic reads it; add it to a topic or remove it"


RULES = (
    _unique_names,
    _known_parts_in_order,
    _known_needs,
    _acyclic_needs,
    _papers_known_and_used,
)


# --- the words of a schema error ---


def _explain(error: ValidationError, document: Any) -> Iterator[str]:
    """Say where the error is, what stands there, and what may stand there."""
    where, field = _place(list(error.absolute_path), document)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for name in error.instance:
            if name not in known:
                hint = _suggest(name, known) or f"use {', '.join(known)}"
                yield f"{where}: unknown field {name!r}; {hint}"
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield f"{where}: field {name!r} is missing; add it"
    else:
        allowed = error.schema.get("description", error.message)
        yield f"{where}: {field}is {error.instance!r:.80}; use {allowed}"


def _place(path: list, document: Any) -> tuple[str, str]:
    """Turn ["topics", 6, "papers", 0] into "topic attention" and "papers[0] "."""
    where, rest = "syllabus.yml", path
    if len(path) > 1 and path[0] in ("topics", "parts", "guides", "papers"):
        entry, rest = document[path[0]][path[1]], path[2:]
        name = path[1]
        if isinstance(name, int) and isinstance(entry, dict):
            name = entry.get("slug") or entry.get("id") or f"number {name + 1}"
        where = f"{path[0].removesuffix('s')} {name}"
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in rest)
    return where, field.lstrip(".") + " " if field else ""


def _suggest(name: object, known: Any) -> str:
    """ "did you mean ...?" for the nearest known name, or "" where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _with_text_keys(document: Any) -> Any:
    """JSON Schema knows text keys only: give it the pillars 0 to 5 as "0" to "5"."""
    if isinstance(document, dict) and isinstance(document.get("pillars"), dict):
        pillars = {str(key): name for key, name in document["pillars"].items()}
        return {**document, "pillars": pillars}
    return document

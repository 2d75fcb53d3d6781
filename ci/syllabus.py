"""Load and check `syllabus.yml`, the single source of every topic.

    python -m ci.syllabus

prints one line for each problem in the file, or between it and the tree. A new field
is one entry in `syllabus.schema.json` and one attribute of `Topic`.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ci.syllabus_rules import problems

ROOT = Path(__file__).resolve().parent.parent
GUIDES = Path("book/guides")


class SyllabusError(ValueError):
    """The file cannot be used; `problems` has one line for each reason."""

    def __init__(self, path: Path, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join([f"{path.name} has problems:", *problems]))


@dataclass(frozen=True)
class Part:
    """A part of the book; `order` counts from 0."""

    id: str
    title: str
    summary: str
    order: int


@dataclass(frozen=True)
class Paper:
    """A paper, blog post or repository that topics read."""

    key: str
    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Reading:
    """What to read in the paper `key`, and the knob that it maps to."""

    key: str
    read: str
    knob: str


@dataclass(frozen=True)
class Topic:
    """One topic. The comments at the top of `syllabus.yml` explain the fields."""

    slug: str
    part: str
    title: str
    summary: str
    pillars: tuple[int, ...]
    priority: str | None
    tier: int | None
    weeks: tuple[float, ...]
    stage: int | None
    needs: tuple[str, ...]
    papers: tuple[Reading, ...]
    minutes: int
    graded: bool
    status: str
    answers: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Is the topic in the book already?"""
        return self.status == "ready"

    @property
    def chapter(self) -> Path:
        """The chapter, relative to the root of the repository."""
        return Path("book") / self.part / f"{self.slug}.ipynb"

    @property
    def exercise(self) -> Path:
        """The student version of the exercise, relative to the root."""
        return Path("exercises") / self.slug / f"{self.slug}.ipynb"

    @property
    def solution(self) -> Path:
        """The instructor version of the exercise, relative to the root."""
        return Path("solutions") / self.slug / f"{self.slug}.ipynb"


@dataclass(frozen=True)
class Guide:
    """A page that says how to do something with the book; no topic, never graded."""

    slug: str
    title: str
    summary: str
    minutes: int

    @property
    def chapter(self) -> Path:
        """The page, relative to the root of the repository."""
        return GUIDES / f"{self.slug}.ipynb"


@dataclass(frozen=True)
class Syllabus:
    """All of `syllabus.yml`; every mapping is in the order of the file."""

    topics: dict[str, Topic]
    parts: dict[str, Part]
    pillars: dict[int, str]
    papers: dict[str, Paper]
    guides: dict[str, Guide] = field(default_factory=dict)


def load(path: Path | None = None) -> Syllabus:
    """Read, check and return the syllabus at `path`, by default the repository's.

    Raises SyllabusError with every problem found, FileNotFoundError without a file.
    """
    path = path or ROOT / "syllabus.yml"
    try:
        document = yaml.load(path.read_text("utf-8"), _Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())  # YAML's own message has several lines
        raise SyllabusError(path, [f"not YAML: {reason}"]) from None
    if found := problems(document):
        raise SyllabusError(path, found)
    return _build(document)


def check_tree(syllabus: Syllabus, root: Path) -> list[str]:
    """Compare ready topics and guides with the files under `root` and `_toc.yml`."""
    ready = [topic for topic in syllabus.topics.values() if topic.ready]
    found, pages = [], []
    for topic in ready:
        files = [topic.chapter]
        if topic.graded:
            files += [topic.solution, topic.exercise]
        pages += [topic.chapter, *([topic.exercise] if topic.graded else [])]
        files += [_module_file(name) for name in topic.answers]
        for file in files:
            if not (root / file).is_file():
                found.append(
                    f"topic {topic.slug}: status is 'ready' but {file} is not there; "
                    "add the file or set the status to 'planned'"
                )
    for guide in syllabus.guides.values():
        pages.append(guide.chapter)
        if not (root / guide.chapter).is_file():
            found.append(
                f"guide {guide.slug}: {guide.chapter} is not there; add the file or "
                "remove the guide"
            )
    if not (root / "_toc.yml").is_file():
        return [
            *found,
            "_toc.yml: the file is not there; write it as Jupyter Book asks",
        ]
    listed = _toc_files(yaml.safe_load((root / "_toc.yml").read_text("utf-8")))
    expected = [page.with_suffix("").as_posix() for page in pages]
    return found + _compare_toc(expected, listed)


def main() -> int:
    """Check the repository's syllabus and tree; print problems; 1 if there are any."""
    try:
        syllabus = load()
        found = check_tree(syllabus, ROOT)
    except SyllabusError as error:
        found = error.problems
    for line in found:
        print(line)
    if not found:
        ready = sum(topic.ready for topic in syllabus.topics.values())
        print(
            f"syllabus.yml: {len(syllabus.topics)} topics, {ready} ready, "
            f"{len(syllabus.papers)} papers, no problems"
        )
    return 1 if found else 0


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML's safe loader, which here refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            names = Counter(key.value for key, _ in node.value)
            twice = names.most_common(1)[0][0]
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands twice", node.start_mark
            )
        return mapping


def _build(document: dict) -> Syllabus:
    """Turn a checked document into dataclasses."""
    lists = ("pillars", "weeks", "needs")
    topics = {}
    for entry in document["topics"]:
        fields = {**entry, **{name: tuple(entry[name]) for name in lists}}
        fields["answers"] = tuple(entry.get("answers", ()))
        fields["papers"] = tuple(Reading(**paper) for paper in entry["papers"])
        topics[entry["slug"]] = Topic(**fields)
    parts = {
        part["id"]: Part(**part, order=order)
        for order, part in enumerate(document["parts"])
    }
    papers = {key: Paper(key, **paper) for key, paper in document["papers"].items()}
    guides = {guide["slug"]: Guide(**guide) for guide in document.get("guides", [])}
    return Syllabus(topics, parts, document["pillars"], papers, guides)


def _module_file(name: str) -> Path:
    """Where a module of ours lies: posttrain.a.b or posttrain_kernels.a."""
    folder = "kernels/" if name.startswith("posttrain_kernels.") else ""
    return Path(f"{folder}{name.replace('.', '/')}.py")


def _toc_files(entry: Any) -> list[str]:
    """Every `file` in a table of contents, in order; the root page is not one."""
    if isinstance(entry, list):
        return [file for each in entry for file in _toc_files(each)]
    if isinstance(entry, dict):
        here = [entry["file"]] if "file" in entry else []
        return here + [file for each in entry.values() for file in _toc_files(each)]
    return []


def _compare_toc(expected: list[str], listed: list[str]) -> list[str]:
    """Problems of a table of contents that must list `expected`, in this order."""
    missing = [page for page in expected if page not in listed]
    extra = [page for page in listed if page not in expected]
    twice = [page for page, count in Counter(listed).items() if count > 1]
    found = [
        f"_toc.yml: {page} is missing; its topic is 'ready', or it is a guide"
        for page in missing
    ]
    found += [
        f"_toc.yml: {page} belongs to no ready topic and is no guide; remove it, "
        "or set the topic's status to 'ready' in syllabus.yml"
        for page in extra
    ]
    found += [f"_toc.yml: {page} is listed twice; remove one" for page in twice]
    if not found and expected != listed:
        found = [f"_toc.yml: order the pages as in syllabus.yml: {', '.join(expected)}"]
    return found


if __name__ == "__main__":
    sys.exit(main())

"""Who may import whom, held against the real imports."""

import ast
import json
from pathlib import Path

import pytest

from ci import syllabus

ROOT = Path(__file__).resolve().parents[1]
OURS = {"posttrain", "posttrain_kernels", "grading", "ci", "solutions", "tests"}
PARTS = {topic.part for topic in syllabus.load().topics.values()}


def imports(tree: ast.AST) -> set[str]:
    """The dotted names that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write absolute imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in OURS}


def below(folder: str) -> dict[str, set[str]]:
    """For each module below a folder: what it imports of ours."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    trees = {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in paths}
    return {name: ours(imports(tree)) for name, tree in trees.items()}


def part_of(name: str) -> str | None:
    """foundations for posttrain/foundations/x.py and posttrain.foundations.x"""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 2 and parts[1] in PARTS else None


def test_the_library_imports_only_itself_and_the_kernels():
    for path, names in below("posttrain").items():
        tops = ("posttrain", "posttrain_kernels")
        bad = {n for n in names if n.split(".")[0] not in tops}
        assert not bad, f"{path} imports {bad}"


def test_checks_do_not_import_the_code_that_they_would_judge():
    tools = "posttrain_kernels.lab"  # runs a kernel and sees its faults; is no kernel
    for path, names in below("posttrain/checks").items():
        bad = {n for n in names if not n.startswith(("posttrain.checks", tools))}
        assert not bad, f"{path} imports {bad}"


def test_grading_knows_no_topic():
    """Of the library it knows the contract of tasks, not one exercise or part."""
    contract = {f"posttrain.checks.{n}" for n in ("attempt", "forbid", "judge")}
    contract.add("posttrain")  # where it lies, for what a kernel may read
    contract.add("posttrain.sources")  # what the checks of an exercise depend on
    for path, names in below("grading").items():
        bad = {n for n in names if n.split(".")[0] != "grading"} - contract
        assert not bad, f"{path} imports {bad}"


def test_kernels_import_nothing_of_ours():
    assert below("kernels")
    for path, names in below("kernels").items():
        bad = {n for n in names if n.split(".")[0] != "posttrain_kernels"}
        assert not bad, f"{path} imports {bad}"


def test_parts_build_on_foundations_and_never_in_a_circle():
    edges = set()
    for path, names in below("posttrain").items():
        here = part_of(path)
        edges |= {(here, part_of(n)) for n in names if here and part_of(n)}
    edges = {(a, b) for a, b in edges if a != b}
    assert not any(a == "foundations" for a, _ in edges), edges
    assert not any((b, a) in edges for a, b in edges), edges


@pytest.mark.parametrize("folder", ["book", "solutions", "exercises"])
def test_notebooks_import_only_the_library(folder):
    for path in sorted((ROOT / folder).rglob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.startswith("%"):
                continue
            bad = {n for n in ours(imports(ast.parse(source))) if n[:9] != "posttrain"}
            assert not bad, f"{path.name} {cell['id']} imports {bad}"


def test_this_test_sees_a_forbidden_import():
    assert ours(imports(ast.parse("from ci import keys"))) == {"ci.keys"}
    assert part_of("posttrain.foundations.attention") == "foundations"
    assert part_of("posttrain/foundations/attention.py") == "foundations"
    assert part_of("posttrain.data") is None

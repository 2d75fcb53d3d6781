"""The import closure: which files a module depends on, read from the text alone."""

from pathlib import Path

import pytest

from posttrain import sources

FILES = {
    "__init__.py": "",
    "data.py": "import json",
    "foundations/__init__.py": "",
    "foundations/attention.py": "import torch\nfrom . import rope",
    "foundations/rope.py": "from ..plot import figure",
    "foundations/unused.py": "",
    "foundations/attention_experiment.py": (
        "from posttrain.foundations import attention\n"
        "def run():\n    import posttrain.data\n"
    ),
    "foundations/base_artifact.py": "from posttrain.data import load",
    "checks/__init__.py": "",
    "checks/attention.py": "import math",
    "plot/__init__.py": "from posttrain.plot.style import palette",
    "plot/style.py": "palette = {}",
    "plot/static/map.js": "1",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "posttrain"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def closure(package: Path, *modules: str) -> set[str]:
    paths = sources.closure(*modules, package=package)
    return {path.relative_to(package).as_posix() for path in paths}


PLOT = {"plot/__init__.py", "plot/style.py", "plot/static/map.js"}
ATTENTION = {
    "__init__.py",
    "foundations/__init__.py",
    "foundations/attention.py",
    "foundations/rope.py",
}


def test_closure_follows_imports_packages_and_data_files(package):
    assert closure(package, "posttrain.foundations.attention") == ATTENTION | PLOT


def test_closure_sees_a_module_imported_from_its_package_and_inside_functions(package):
    experiment = {"foundations/attention_experiment.py", "data.py"}
    found = closure(package, "posttrain.foundations.attention_experiment")
    assert found == ATTENTION | PLOT | experiment


def test_closure_of_an_unknown_module_names_it(package):
    with pytest.raises(ValueError, match=r"no module 'posttrain\.nothing'"):
        sources.closure("posttrain.nothing", package=package)


def test_closure_of_a_circle_ends(package):
    (package / "data.py").write_text("import posttrain.circle")
    (package / "circle.py").write_text("import posttrain.data")
    assert closure(package, "posttrain.data") == {
        "__init__.py",
        "data.py",
        "circle.py",
    }


def test_closure_sees_a_file_that_changed(package):
    before = closure(package, "posttrain.data")
    (package / "data.py").write_text("import json\nimport posttrain.plot.style")
    assert closure(package, "posttrain.data") == before | PLOT


def test_a_file_that_does_not_parse_is_named(package):
    (package / "data.py").write_text("def f(:")
    with pytest.raises(SyntaxError) as error:
        sources.closure("posttrain.data", package=package)
    assert error.value.filename == str(package / "data.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import posttrain.data as d", {"posttrain.data"}),
        ("from posttrain import data", {"posttrain", "posttrain.data"}),
        ("from posttrain.data import load", {"posttrain.data"}),
        ("check = grader('attention')", {"posttrain.checks.attention"}),
        ("checks.grader('attention')", {"posttrain.checks.attention"}),
        (
            "artifacts.get('foundations.base', preset)",
            {"posttrain.foundations.base_artifact"},
        ),
        ("settings.get('foundations.base')", set()),
        ("import posttrain_kernels, torch", set()),
        ("load('attention')", set()),
    ],
)
def test_imports(package, text, expected):
    assert sources.imports(text, package=package) == expected


def test_digest_tells_content_and_names_but_not_order(package):
    one, two = package / "data.py", package / "plot/style.py"
    root = package.parent
    before = sources.digest([one, two], root)
    assert sources.digest([two, one], root) == before
    assert sources.digest([one], root) != before
    two.rename(two.with_name("look.py"))
    assert sources.digest([one, two.with_name("look.py")], root) != before
    two.with_name("look.py").rename(two)
    two.write_text("palette = {1: 2}")
    assert sources.digest([one, two], root) != before


def test_the_closure_of_the_real_package_needs_no_import():
    names = {path.name for path in sources.closure("posttrain.artifacts")}
    assert {"__init__.py", "artifacts.py", "sources.py", "data.py"} <= names

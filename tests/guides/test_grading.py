"""The figures of the guide "Grading a class", and the numbers behind them."""

import copy
import json
import re
from pathlib import Path

import pytest

from grading import __main__ as command
from grading import archives, intake, notebooks, runner
from grading.containment import selftest
from grading.containment.policy import Limits
from posttrain.guides import grading as guide

ROOT = Path(__file__).resolve().parents[2]
RECORD = {
    "provenance": {},
    "submissions": 10,
    "workers": 2,
    "fast": [
        {"repeat": 0, "stock_seconds": 60.0, "ours_seconds": 10.0},
        {"repeat": 1, "stock_seconds": 90.0, "ours_seconds": 20.0},
    ],
    "slow": {
        "submissions": 4,
        "answer_seconds": 5,
        "stock_seconds": 60.0,
        "ours_seconds": 30.0,
    },
    "memory": [
        {"submissions": 100, "grader_mib": 51.0, "workers_mib": 70.0},
        {"submissions": 10, "grader_mib": 50.0, "workers_mib": 70.0},
    ],
    "kills": dict.fromkeys(guide.KILLS.split(), 0),
}


@pytest.fixture
def shown(monkeypatch):
    """The HTML that was displayed."""
    pages = []
    for module in (guide, guide.display_figure.__globals__):
        target = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(target, "display", lambda html: pages.append(html.data))
    return pages


def test_rates_ratios_and_time():
    measured = guide.Measured.of(RECORD)
    assert measured.fast.per_minute == {
        guide.STOCK: [10, 600 / 90],
        guide.OURS: [60, 30],
    }
    assert measured.fast.ratios == [6.0, 4.5]
    assert measured.slow.ratios == [2.0]
    assert measured.minutes(200) == pytest.approx(200 / 45)
    assert [row["submissions"] for row in measured.memory] == [10, 100]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "workers"),
        (("fast", 1), "ours_seconds"),
        (("slow",), "answer_seconds"),
        (("memory", 0), "workers_mib"),
        (("kills",), "marks_changed"),
    ],
)
def test_a_missing_field_is_named(path, name):
    record = copy.deepcopy(RECORD)
    fields = record
    for key in path:
        fields = fields[key]
    del fields[name]
    with pytest.raises(ValueError, match=f"no field '{name}'; measure it again"):
        guide.Measured.of(record)


def test_the_throughput_figure_says_its_numbers(shown):
    guide.throughput(guide.Measured.of(RECORD))
    (page,) = shown
    assert "make grade 45.0 a minute" in page
    assert "Answers of 5 seconds: nbgrader autograde 4.0 a minute" in page
    assert "the 2 repeats" in page


def test_the_flow_is_drawn_in_the_ink_of_the_page(shown):
    guide.flow()
    (page,) = shown
    assert 'fill="currentColor"' in page
    assert page.count("stroke-dasharray") == 1  # the one step that is not ours
    for comes, name, what in guide.STEPS:
        assert all(f">{words}</text>" in page for words in (comes, name, what))
        assert max(len(name), len(what)) * 7 < 340, "wider than its box"
    assert set(re.findall(r"#[0-9a-f]{6}", page)) <= set(guide.palette.values())


# ------------------------------------------- the guide says what the grader does


@pytest.fixture(scope="module")
def text():
    """The Markdown of the guide, lines joined."""
    nb = json.loads((ROOT / "book/guides/grading.ipynb").read_text())
    cells = [c for c in nb["cells"] if c["cell_type"] == "markdown"]
    return " ".join("\n".join("".join(c["source"]) for c in cells).split())


def test_limits_are_those_of_the_grader(text):
    limits = Limits()
    for row in (
        f"| memory | {limits.memory >> 30} GiB |",
        f"| processes and threads | {limits.processes} |",
        f"| one file | {limits.file_size >> 20} MiB |",
        f"| all its files | {limits.disk >> 20} MiB |",
        f"| processor time | {limits.cpu_seconds} s |",
        f"| one cell | {runner.CELL_SECONDS} s |",
        f"| the whole notebook | {runner.NOTEBOOK_SECONDS} s |",
        f"| output that is kept | {runner.OUTPUT_KEPT >> 20} MiB |",
        f"| notebook handed in | {intake.MAX_NOTEBOOK // 10**6} MB, "
        f"{notebooks.MAX_CELLS:,} cells |",
        f"| archive handed in | {intake.MAX_ARCHIVE // 10**6} MB |",
    ):
        assert row in text, row


def test_kinds_of_archives_and_attempts_are_those_of_the_grader(text):
    for suffix in archives.SUFFIXES:
        assert f"`{suffix}`" in text
    assert f"{len(selftest.ATTEMPTS)} attempts to break out have failed" in text


def test_every_option_that_it_names_exists(text, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    calls = re.findall(r'-m grading (--.*?)```|OPTIONS="(.*?)"|`(--no-.*?)`', text)
    used = set(re.findall(r"--[a-z-]+", str(calls)))
    assert {"--seed", "--workers", "--output", "--no-feedback"} <= used <= known


def test_every_file_of_ours_that_it_names_exists(text):
    names = re.findall(
        r"`((?:tests|solutions|exercises|grading|posttrain)/[\w/.]+)`", text
    )
    assert len(names) >= 3
    for name in names:
        assert (ROOT / name).exists(), name

"""`syllabus.yml` is complete, and every planted fault is named with its fix."""

import copy
import subprocess
import sys
from itertools import pairwise

import pytest
import yaml

from ci import syllabus as syllabuses
from ci.syllabus import ROOT, SyllabusError, check_tree, load
from ci.syllabus_rules import problems

TOPICS_A_PART = {
    "plans": 8,
    "foundations": 14,
    "alignment": 9,
    "synthetic_data": 6,
    "infrastructure": 15,
    "evaluation": 6,
    "interview": 6,
    "continual_learning": 3,
    "agents": 4,
    "capstone": 1,
    "research": 4,
}
UNGRADED = {"mini_grpo_unsloth", "explain_drills", "portfolio", "fifty_papers"}


@pytest.fixture(scope="module")
def book():
    """The repository's own syllabus."""
    return load()


@pytest.fixture
def document():
    """A small syllabus that is right: two parts, three topics, two papers."""

    def topic(slug, part, needs, key):
        return {
            "slug": slug,
            "part": part,
            "title": f"About {slug}",
            "summary": "Do something.",
            "pillars": [0],
            "priority": "P0",
            "tier": None,
            "weeks": [0, 6.5],
            "stage": 0,
            "needs": needs,
            "papers": [{"key": key, "read": "All of it.", "knob": "The rate."}],
            "minutes": 60,
            "graded": True,
            "status": "planned",
        }

    paper = {"title": "T", "authors": "A", "year": 2017, "url": "https://a.org/1"}
    return {
        "parts": [
            {"id": "one", "title": "One", "summary": "First."},
            {"id": "two", "title": "Two", "summary": "Second."},
        ],
        "pillars": {number: f"Pillar {number}" for number in range(6)},
        "topics": [
            topic("alpha", "one", [], "a2017"),
            topic("beta", "one", ["alpha"], "a2017"),
            topic("gamma", "two", ["alpha", "beta"], "b2018"),
        ],
        "papers": {"a2017": paper, "b2018": {**paper, "year": 2018}},
    }


@pytest.fixture
def tree(tmp_path, document):
    """A root where alpha is ready: its files are there and the contents match."""
    document["topics"][0]["status"] = "ready"
    (tmp_path / "syllabus.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    for folder in ("book/one", "exercises/alpha", "solutions/alpha"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "alpha.ipynb").write_text("{}")
    toc(tmp_path, "book/one/alpha", "exercises/alpha/alpha")
    return tmp_path


def toc(root, *files):
    """Write a table of contents with these pages, exercises below chapters."""
    chapters = [{"file": files[0], "sections": [{"file": f} for f in files[1:]]}]
    parts = [{"caption": "One", "chapters": chapters if files[0] else []}]
    text = yaml.safe_dump({"format": "jb-book", "root": "book/index", "parts": parts})
    (root / "_toc.yml").write_text(text)


def test_every_topic_of_the_curriculum_is_there(book):
    counts = dict.fromkeys(book.parts, 0)
    for topic in book.topics.values():
        counts[topic.part] += 1
    assert counts == TOPICS_A_PART and len(book.topics) == 76


def test_repository_has_no_problems():
    document = yaml.safe_load((ROOT / "syllabus.yml").read_text("utf-8"))
    assert problems(document) == []


def test_repository_tree_agrees(book):
    assert check_tree(book, ROOT) == []


def test_fields_of_a_topic(book):
    attention = book.topics["attention"]
    assert (attention.part, attention.priority, attention.weeks) == (
        "foundations",
        "P0",
        (1,),
    )
    assert attention.ready and attention.graded
    assert attention.chapter.as_posix() == "book/foundations/attention.ipynb"
    assert attention.exercise.as_posix() == "exercises/attention/attention.ipynb"
    assert attention.solution.as_posix() == "solutions/attention/attention.ipynb"
    assert "vaswani2017" in {paper.key for paper in attention.papers}
    assert [part.order for part in book.parts.values()] == list(range(11))


def test_what_the_plans_say(book):
    topics = book.topics.values()
    assert {t.slug for t in topics if not t.graded} == UNGRADED | {
        t.slug for t in topics if t.part == "plans"
    }
    unrated = {t.slug for t in topics if t.priority is None}
    beyond = {t.slug for t in topics if t.part in ("plans", "capstone", "research")}
    assert unrated == beyond
    assert {t.slug for t in topics if len(t.pillars) == 2} == {"ace", "paged_attention"}
    core = "eval_statistics run_clinic post_training_stability data_mixing optimizers"
    assert all(book.topics[slug].tier == 1 for slug in core.split())
    stages = {n: [t.slug for t in topics if t.stage == n] for n in range(6)}
    assert stages == {
        0: ["tokenization", "transformer", "training_loop"],
        1: ["chat_sft", "reasoning_traces", "lora"],
        2: ["reward_model", "dpo"],
        3: ["grpo", "mini_grpo_unsloth"],
        4: ["multi_lora_serving", "tool_use"],
        5: ["llm_as_judge", "red_teaming"],
    }
    weeks = {week for t in topics for week in t.weeks}
    assert weeks == {*range(17), 6.5, 8.5, 10.5}


def test_every_topic_but_the_plans_reads_something(book):
    for topic in book.topics.values():
        assert bool(topic.papers) == (topic.part != "plans"), topic.slug


def test_small_document_is_right(document):
    assert problems(document) == []


FAULTS = {
    "misspelt field": (
        lambda d: d["topics"][0].update(minuts=d["topics"][0].pop("minutes")),
        [
            "topic alpha: field 'minutes' is missing; add it",
            "topic alpha: unknown field 'minuts'; did you mean 'minutes'?",
        ],
    ),
    "foreign field": (
        lambda d: d["papers"]["a2017"].update(venue="NeurIPS"),
        [
            "paper a2017: unknown field 'venue'; use title, authors, year, url",
        ],
    ),
    "wrong priority": (
        lambda d: d["topics"][1].update(priority="P3"),
        ["topic beta: priority is 'P3'; use P0, P1, P2 or null"],
    ),
    "minutes as text": (
        lambda d: d["topics"][1].update(minutes="60"),
        ["topic beta: minutes is '60'; use whole minutes, from 5 to 600"],
    ),
    "graded as text": (
        lambda d: d["topics"][1].update(graded="yes"),
        ["topic beta: graded is 'yes'; use true or false"],
    ),
    "unknown status": (
        lambda d: d["topics"][1].update(status="done"),
        ["topic beta: status is 'done'; use planned or ready"],
    ),
    "week beyond the plan": (
        lambda d: d["topics"][1].update(weeks=[1, 17]),
        ["topic beta: weeks[1] is 17; use a week from 0 to 16, in halves"],
    ),
    "pillar beyond five": (
        lambda d: d["topics"][1].update(pillars=[6]),
        ["topic beta: pillars[0] is 6; use a pillar from 0 to 5"],
    ),
    "reading without a full stop": (
        lambda d: d["topics"][2]["papers"][0].update(knob="the rate"),
        [
            "topic gamma: papers[0].knob is 'the rate'; "
            "use one line of text that ends with a full stop"
        ],
    ),
    "slug with a capital": (
        lambda d: d["topics"][2].update(slug="Gamma"),
        [
            "topic Gamma: slug is 'Gamma'; "
            "use lower-case letters, digits and underscores, a letter first"
        ],
    ),
    "bare arXiv number": (
        lambda d: d["papers"]["a2017"].update(url="1706.03762"),
        [
            "paper a2017: url is '1706.03762'; "
            "use an address that starts with https:// or http://"
        ],
    ),
    "no topics": (
        lambda d: d.pop("topics"),
        ["syllabus.yml: field 'topics' is missing; add it"],
    ),
    "topic without a slug": (
        lambda d: d["topics"][2].pop("slug"),
        ["topic number 3: field 'slug' is missing; add it"],
    ),
    "pillar without a name": (
        lambda d: d["pillars"].pop(5),
        ["syllabus.yml: field '5' is missing; add it"],
    ),
    "slug twice": (
        lambda d: d["topics"][1].update(slug="alpha", needs=[]),
        [
            "topic alpha: the name is used 2 times; rename all but 1",
            "topic gamma: needs has the unknown 'beta'; "
            "use a slug of this file, or remove it",
        ],
    ),
    "unknown need": (
        lambda d: d["topics"][2].update(needs=["alfa", "zzz"]),
        [
            "topic gamma: needs has the unknown 'alfa'; did you mean 'alpha'?",
            "topic gamma: needs has the unknown 'zzz'; "
            "use a slug of this file, or remove it",
        ],
    ),
    "cycle": (
        lambda d: d["topics"][0].update(needs=["gamma"], papers=[]),
        ["needs goes in a circle"],
    ),
    "need of itself": (
        lambda d: d["topics"][0].update(needs=["alpha"]),
        [
            "topic alpha: needs goes in a circle, alpha needs alpha; "
            "remove one of these needs"
        ],
    ),
    "unknown part": (
        lambda d: d["topics"][2].update(part="too"),
        ["topic gamma: part is 'too'; use one of one, two"],
    ),
    "topic away from its part": (
        lambda d: d["topics"].append({**d["topics"][0], "slug": "delta"}),
        [
            "topic delta: part 'one' comes after 'two'; "
            "move the topic up to the others of its part"
        ],
    ),
    "unknown paper": (
        lambda d: d["topics"][0]["papers"][0].update(key="a2071"),
        ["topic alpha: papers has the unknown 'a2071'; did you mean 'a2017'?"],
    ),
    "paper that nobody reads": (
        lambda d: d["topics"][2].update(papers=[]),
        ["paper b2018: no topic reads it; add it to a topic or remove it"],
    ),
    "paper twice in a topic": (
        lambda d: d["topics"][0].update(papers=d["topics"][0]["papers"] * 2),
        ["topic alpha: papers has 'a2017' 2 times; join them into one"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault(document, name):
    plant, expected = FAULTS[name]
    plant(document)
    found = problems(document)
    assert len(found) == len(expected), found
    for line, part in zip(sorted(found), sorted(expected), strict=True):
        assert part in line


def test_cycle_names_its_way_round(document):
    document["topics"][0]["needs"] = ["gamma"]
    (line,) = problems(document)
    circle = line.split("circle, ")[1].split(";")[0].split(" needs ")
    needs = {topic["slug"]: topic["needs"] for topic in document["topics"]}
    assert circle[0] == circle[-1] and len(circle) > 2
    assert line.startswith(f"topic {circle[0]}: ")
    assert all(after in needs[before] for before, after in pairwise(circle))


@pytest.mark.parametrize("document", [None, [], "text " * 99, {"topics": 3}])
def test_something_else_than_a_syllabus(document):
    found = problems(document)
    assert found and all(line.startswith("syllabus.yml: ") for line in found)
    assert max(map(len, found)) < 160  # a whole document is not printed


def test_load_reports_all_problems_at_once(tree, document):
    broken = copy.deepcopy(document)
    broken["topics"][0]["tier"] = 9
    broken["topics"][1]["stage"] = 9
    (tree / "syllabus.yml").write_text(yaml.safe_dump(broken))
    with pytest.raises(SyllabusError) as error:
        load(tree / "syllabus.yml")
    assert error.value.problems == [
        "topic alpha: tier is 9; use 1, 2, 3 or null",
        "topic beta: stage is 9; use a stage from 0 to 5, or null",
    ]
    assert "syllabus.yml has problems:" in str(error.value)


def test_load_refuses_a_key_that_stands_twice(tree):
    path = tree / "syllabus.yml"
    path.write_text(path.read_text() + "papers: {}\n")
    with pytest.raises(SyllabusError, match="the key 'papers' stands twice"):
        load(path)


def test_load_refuses_what_is_not_yaml(tree):
    (tree / "syllabus.yml").write_text("topics: [")
    with pytest.raises(SyllabusError, match=r"not YAML: .*line"):
        load(tree / "syllabus.yml")


def test_tree_that_agrees(tree):
    assert check_tree(load(tree / "syllabus.yml"), tree) == []


@pytest.mark.parametrize(
    "file",
    [
        "book/one/alpha.ipynb",
        "solutions/alpha/alpha.ipynb",
        "exercises/alpha/alpha.ipynb",
    ],
)
def test_ready_topic_without_a_file(tree, file):
    (tree / file).unlink()
    assert check_tree(load(tree / "syllabus.yml"), tree) == [
        f"topic alpha: status is 'ready' but {file} is not there; "
        "add the file or set the status to 'planned'"
    ]


def test_ready_topic_without_a_graded_exercise(tree, document):
    document["topics"][0]["graded"] = False
    (tree / "syllabus.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    (tree / "solutions/alpha/alpha.ipynb").unlink()
    (tree / "exercises/alpha/alpha.ipynb").unlink()
    toc(tree, "book/one/alpha")
    assert check_tree(load(tree / "syllabus.yml"), tree) == []


@pytest.mark.parametrize(
    "files, message",
    [
        (["book/one/alpha"], "exercises/alpha/alpha is missing; its topic is 'ready'"),
        (
            ["book/one/alpha", "exercises/alpha/alpha", "book/one/beta"],
            "book/one/beta belongs to no ready topic and is no guide; remove it",
        ),
        (
            ["book/one/alpha", "exercises/alpha/alpha", "book/one/alpha"],
            "book/one/alpha is listed twice; remove one",
        ),
        (
            ["exercises/alpha/alpha", "book/one/alpha"],
            "order the pages as in syllabus.yml: book/one/alpha, exercises/alpha/alpha",
        ),
    ],
)
def test_table_of_contents_that_differs(tree, files, message):
    toc(tree, *files)
    (line,) = check_tree(load(tree / "syllabus.yml"), tree)
    assert line.startswith(f"_toc.yml: {message}")


def test_no_table_of_contents(tree):
    (tree / "_toc.yml").unlink()
    (line,) = check_tree(load(tree / "syllabus.yml"), tree)
    assert line.startswith("_toc.yml: the file is not there")


def test_command_prints_problems_and_fails(tree, monkeypatch, capsys):
    monkeypatch.setattr(syllabuses, "ROOT", tree)
    assert syllabuses.main() == 0
    assert capsys.readouterr().out == (
        "syllabus.yml: 3 topics, 1 ready, 2 papers, no problems\n"
    )
    (tree / "book/one/alpha.ipynb").unlink()
    assert syllabuses.main() == 1
    assert capsys.readouterr().out.startswith("topic alpha: status is 'ready' but")
    (tree / "syllabus.yml").write_text("topics: 3")
    assert syllabuses.main() == 1
    assert "topics is 3; use a list of topics" in capsys.readouterr().out


def test_command_runs_as_a_module():
    command = [sys.executable, "-m", "ci.syllabus"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == len(check_tree(load(), ROOT)[:1]), result.stdout
    assert result.stderr == ""


def test_answers_name_modules_that_exist():
    topics = load().topics
    assert topics["attention"].answers == ("posttrain.foundations.attention",)
    assert topics["lora"].answers == ()


@pytest.fixture
def guided(tree, document):
    """The same tree with a guide, which the table of contents lists last."""
    guide = {"slug": "way", "title": "A way", "summary": "Go.", "minutes": 9}
    document["guides"] = [guide]
    (tree / "syllabus.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    (tree / "book/guides").mkdir()
    (tree / "book/guides/way.ipynb").write_text("{}")
    toc(tree, "book/one/alpha", "exercises/alpha/alpha", "book/guides/way")
    return tree


def test_guides_are_pages_beside_the_topics(guided):
    book = load(guided / "syllabus.yml")
    assert book.guides["way"].chapter.as_posix() == "book/guides/way.ipynb"
    assert check_tree(book, guided) == []


def test_a_guide_must_be_there_and_listed(guided):
    book = load(guided / "syllabus.yml")
    toc(guided, "book/one/alpha", "exercises/alpha/alpha")
    (line,) = check_tree(book, guided)
    assert line.startswith("_toc.yml: book/guides/way is missing;")
    (guided / "book/guides/way.ipynb").unlink()
    assert check_tree(book, guided)[0] == (
        "guide way: book/guides/way.ipynb is not there; add the file or remove the "
        "guide"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"minutes": 0}, "guide way: minutes is 0; use whole minutes"),
        ({"part": "one"}, "guide way: unknown field 'part'"),
        ({"slug": "beta"}, "guide beta: the name is used 2 times"),
    ],
)
def test_planted_fault_of_a_guide(guided, document, change, problem):
    document["guides"][0].update(change)
    (line,) = problems(document)
    assert line.startswith(problem)

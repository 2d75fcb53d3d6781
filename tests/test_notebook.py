"""What notebooks show: source, notes, quizzes, the attention map."""

import json
import re
from html.parser import HTMLParser

import pytest

from posttrain import notebook
from posttrain.foundations import attention_map as maps

QUESTION = (
    "Is `x < 1`?",
    [("yes", True, "because `x` is 0"), ("no <b>", False, "look again")],
)


@pytest.fixture
def shown(monkeypatch):
    """The data of everything displayed."""
    seen = []
    for module in (notebook, maps):
        monkeypatch.setattr(module, "display", lambda thing: seen.append(thing.data))
    return seen


class Tags(HTMLParser):
    """Collects tags and fails on one that is closed out of order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_show_prints_the_source_itself(shown):
    notebook.show(notebook.note, notebook.show)
    assert len(shown) == 2
    assert shown[0].startswith("```python\ndef note(markdown: str) -> None:")
    assert shown[0].endswith("\n```")


def test_show_prints_a_method_without_its_indent(shown):
    notebook.show(Tags.handle_endtag)
    assert shown[0].startswith("```python\ndef handle_endtag(self, tag):\n    assert")


def test_note_takes_indented_text(shown):
    notebook.note("""
        The loss is **1.9**.

        Next.
    """)
    assert shown == ["The loss is **1.9**.\n\nNext."]


def test_quiz_is_well_formed_and_needs_no_script(shown):
    notebook.quiz([QUESTION, QUESTION])
    names = [tag for tag, _ in Tags(shown[0]).seen]
    assert names.count("details") == names.count("summary") == 4
    assert "script" not in names
    assert "Is <code>x &lt; 1</code>?" in shown[0]
    assert "no &lt;b&gt;" in shown[0]
    assert 'right"><strong>Right.</strong> because <code>x</code> is 0' in shown[0]
    assert 'wrong"><strong>Not quite.</strong> look again' in shown[0]


@pytest.mark.parametrize("rights", [(True, True), (False, False)])
def test_quiz_wants_exactly_one_right_choice(rights):
    choices = [(str(i), right, "why") for i, right in enumerate(rights)]
    with pytest.raises(ValueError, match=f"has {sum(rights)} right choices"):
        notebook.quiz([("Which?", choices)])


def test_quiz_wants_a_reason_for_every_choice():
    with pytest.raises(ValueError, match="'b' does not say why"):
        notebook.quiz([("Which?", [("a", True, "so"), ("b", False, " ")])])


def test_attention_map_holds_the_weights_and_a_fallback(shown):
    tokens = ["a", " ", "<"]
    weights = [[[[1.0], [0.25, 0.75], [0.5, 0.2, 0.3]]] * 2]
    maps.attention_map(tokens, weights, query=2, head=1)
    [html] = shown
    tags = Tags(html).seen
    packed = re.search(r'<script type="application/json">(.*?)</script>', html).group(1)
    assert "<" not in packed  # a token such as </script> must not end the script
    data = json.loads(packed)
    assert data["weights"] == [[[[100], [25, 75], [50, 20, 30]]] * 2]
    assert data["names"] == ["“a”", "space", "“<”"]
    assert data["query"] == 2
    assert "<td>“a” at 0: 50 %, “&lt;” at 2: 30 %, space at 1: 20 %</td>" in html
    buttons = [attrs for _, attrs in tags if attrs.get("role") == "button"]
    assert [b["aria-label"] for b in buttons][1:] == [
        "space, position 1",
        "“<”, position 2",
    ]
    assert not re.search(r"https?://|src=", html)


def test_attention_map_ids_are_deterministic_and_differ():
    def ident(*arguments, **keywords):
        html = maps.attention_map_html(*arguments, **keywords)
        return re.search(r'data-attention-map="(\w+)"', html).group(1)

    weights = [[[[1], [0.5, 0.5]]]]
    assert ident("ab", weights) == ident("ab", weights)
    others = [ident("ab", weights), ident("ac", weights), ident("ab", weights, query=0)]
    assert len(set(others)) == 3


@pytest.mark.parametrize(
    ("tokens", "weights", "more", "words"),
    [
        ("abc", [[[[1], [1, 0]]]], {}, "expected 3 rows"),
        ("ab", [[[[1], [0.5, 0.3, 0.2]]]], {}, "rows of 1 to 2 weights"),
        ("ab", [[[[1], [1, 0]]], []], {}, "layer 1 has 0 heads"),
        ("ab", [[[[1], [1, 0]]]], {"query": 2}, "query=2 is not in 0 ... 1"),
        ("ab", [[[[1], [1, 0]]]], {"head": 1}, "head=1 is not in 0 ... 0"),
    ],
)
def test_attention_map_names_what_does_not_fit(tokens, weights, more, words):
    with pytest.raises(ValueError) as raised:
        maps.attention_map_html(tokens, weights, **more)
    assert words in str(raised.value)


def test_attention_map_refuses_to_be_slow():
    T = 200
    with pytest.raises(ValueError, match="the limit is 150,000"):
        maps.attention_map_html("a" * T, [[[[0.005] * T] * T] * 2])

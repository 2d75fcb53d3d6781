"""Gold, annotators, judges: what preferences are made of."""

import json
import random
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from posttrain.alignment.reward_model_faults import across_prompts
from posttrain.alignment.reward_model_gold import (
    BROKEN,
    SENTENCES,
    Draft,
    draft_reply,
    draw_reply,
    gold,
    read,
    wrong_answer,
)
from posttrain.alignment.reward_model_judge import (
    ChatJudge,
    chat_server,
    judge_from_environment,
    local_judge,
)
from posttrain.alignment.reward_model_labels import (
    Annotator,
    Pair,
    draw_pairs,
    exact_pairs,
)
from posttrain.alignment.word_problem_styles import POLITE, RAMBLING, RUDE, Style
from posttrain.alignment.word_problems import Difficulty, problems

PROBLEM = problems(0, 1, Difficulty(2))[0]


def reply(*said: str, right: bool = True) -> str:
    return Draft("", said, PROBLEM.answer + (not right)).reply


def test_the_worth_of_replies_by_hand():
    assert gold(PROBLEM, reply()) == 2
    assert gold(PROBLEM, reply(right=False)) == 0
    assert gold(PROBLEM, reply(POLITE[0])) == 3
    assert gold(PROBLEM, reply(POLITE[0], POLITE[1])) == 2
    assert gold(PROBLEM, reply(POLITE[0], POLITE[0], POLITE[3])) == 1
    assert gold(PROBLEM, reply(RUDE[0], POLITE[2], RAMBLING[0])) == 1.5
    assert gold(PROBLEM, reply(*RUDE, right=False)) == BROKEN
    assert gold(PROBLEM, reply(*RUDE, *RUDE, right=False)) == BROKEN
    for broken in ("", "Sure!", reply() + " ", reply().replace("The", "the")):
        assert gold(PROBLEM, broken) == BROKEN


def test_reading_counts_sentences_and_words():
    reading = read(reply(POLITE[2], RUDE[1], RAMBLING[4], RAMBLING[4]))
    assert (reading.polite, reading.rude, reading.rambling) == (1, 1, 2)
    assert reading.answer == PROBLEM.answer
    assert reading.words == 3 + 4 + 2 * 8 + 4
    styled = Style(polite=True, rambling=True).reply(random.Random(0), PROBLEM)
    assert read(styled).polite == 1  # the grammar holds that of the styles


def test_the_policy_is_as_its_constants_say():
    rng = random.Random(0)
    drafts = [draft_reply(rng, PROBLEM) for _ in range(4000)]
    lengths = Counter(len(draft.said) for draft in drafts)
    for n, share in enumerate(SENTENCES):
        assert lengths[n] / 4000 == pytest.approx(share, abs=0.03)
    for thinks, share in ((True, 0.8), (False, 0.2)):
        kind = [
            d.answer == PROBLEM.answer for d in drafts if bool(d.thinking) == thinks
        ]
        assert len(kind) / 4000 == pytest.approx(0.5, abs=0.03)
        assert sum(kind) / len(kind) == pytest.approx(share, abs=0.03)
    assert all(read(draft.reply) for draft in drafts)
    wrong = {wrong_answer(rng, PROBLEM) for _ in range(200)}
    assert PROBLEM.answer not in wrong and min(wrong) > 0


def test_pairs_are_of_one_problem_and_follow_the_seed():
    pairs = draw_pairs(random.Random(3), 5, split="test")
    assert pairs == draw_pairs(random.Random(3), 5, split="test")
    assert {pair.problem.split for pair in pairs} == {"test"}
    for pair in pairs:
        assert pair.gap == gold(pair.problem, pair.a) - gold(pair.problem, pair.b)


def test_an_exact_annotator_and_its_ties():
    better, worse = reply(), reply(right=False)
    pairs = [Pair(PROBLEM, better, worse), Pair(PROBLEM, worse, better)]
    for label in exact_pairs(pairs):
        assert (label.chosen, label.rejected) == (better, worse)
    tie = Pair(PROBLEM, better, reply(POLITE[0], RUDE[0]))
    label = Annotator().label(random.Random(0), tie)
    assert label.target == 0.5
    assert exact_pairs([tie]) == []
    assert Annotator(tie_within=2).label(random.Random(0), pairs[0]).target == 0.5


def test_annotators_err_as_often_as_they_say():
    pair = Pair(PROBLEM, reply(), reply(RUDE[0]))  # a gap of 1

    def share(annotator: Annotator) -> float:
        labels = annotator(random.Random(0), [pair] * 4000)
        return sum(label.chosen == pair.a for label in labels) / 4000

    assert share(Annotator()) == 1
    assert share(Annotator(temperature=1)) == pytest.approx(0.731, abs=0.025)
    assert share(Annotator(temperature=0.5)) == pytest.approx(0.881, abs=0.02)
    assert share(Annotator(flips=0.2)) == pytest.approx(0.8, abs=0.025)
    words = pair.more_words  # a is shorter by the words of the rude sentence
    assert words == -len(RUDE[0].split())
    assert share(Annotator(per_word=1.5)) == 0  # the length outweighs the gap


def test_pairs_across_prompts_keep_the_chosen_side():
    labels = exact_pairs(draw_pairs(random.Random(0), 20))
    mixed = across_prompts(labels)
    assert [p.chosen for p in mixed] == [p.chosen for p in labels]
    assert mixed[0].rejected == labels[1].rejected
    assert mixed[-1].rejected == labels[0].rejected
    assert mixed[0].question == labels[0].question


# ---------------------------------------------------------------- judges


def test_the_local_judge_is_the_gold():
    good, bad = reply(), reply(right=False)
    assert local_judge(PROBLEM, good, bad) == 1
    assert local_judge(PROBLEM, bad, good) == 0
    assert local_judge(PROBLEM, good, reply(POLITE[0], RUDE[0])) == 0.5


def test_a_taste_for_the_first_place_comes_out_as_a_tie():
    judge = ChatJudge(lambda text: "A")
    assert judge(PROBLEM, reply(), reply(right=False)) == 0.5

    def shorter(text: str) -> str:
        a, b = text.split("[A] ")[1].split("\n\nWhich")[0].split("\n\n[B] ")
        return " b." if len(b) < len(a) else "A" if len(a) < len(b) else "TIE"

    judge = ChatJudge(shorter)
    assert judge(PROBLEM, reply(), reply(RUDE[1])) == 1
    assert judge(PROBLEM, reply(RUDE[1]), reply()) == 0
    assert judge(PROBLEM, reply(), reply()) == 0.5


def test_an_unreadable_verdict_is_an_error():
    with pytest.raises(ValueError, match="'Both are fine', expected A, B or TIE"):
        ChatJudge(lambda text: "Both are fine")(PROBLEM, "x", "y")


def test_a_server_is_asked_in_the_chat_form():
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            answer = {"choices": [{"message": {"content": "B"}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        judge = judge_from_environment(
            {
                "POSTTRAIN_JUDGE_URL": url,
                "POSTTRAIN_JUDGE_MODEL": "small",
                "POSTTRAIN_JUDGE_KEY": "secret",
            }
        )
        assert judge(PROBLEM, "first", "second") == 0.5
        assert chat_server(url, "small")("hello") == "B"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    path, key, body = asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["model"] == "small" and body["temperature"] == 0
    assert PROBLEM.question in body["messages"][0]["content"]
    assert asked[2][1] is None


def test_the_environment_chooses_the_judge():
    assert judge_from_environment({}) is local_judge
    with pytest.raises(ValueError, match="POSTTRAIN_JUDGE_MODEL is not"):
        judge_from_environment({"POSTTRAIN_JUDGE_URL": "http://x/v1"})


def test_replies_differ_only_where_a_draft_was_changed():
    draft = draft_reply(random.Random(1), PROBLEM)
    changed = replace(draft, answer=draft.answer + 1)
    assert read(draft.reply).words == read(changed.reply).words
    assert draft.reply != changed.reply
    assert read(draw_reply(random.Random(1), PROBLEM)) == read(draft.reply)

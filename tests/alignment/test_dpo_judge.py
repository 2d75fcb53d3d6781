"""Judges: the rules by hand, both orders, a server that answers."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from posttrain.alignment.dpo_judge import (
    AskedJudge,
    ScoreJudge,
    endpoint,
    win_rate,
)
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problems import Difficulty, Problem, problems

JUDGE = ScoreJudge()
PROBLEM = Problem("Mia has 5 coins, finds 3 more. How many now?", 5, (3,))


def reply(text: str) -> str:
    return f"<think>5+3=8</think>{text}"


BEST, RUDE = reply("Sure! The answer is 8."), reply("Ugh. The answer is 8.")
WRONG = reply("Sure! The answer is 9.")


def test_scores_by_hand():
    assert JUDGE.score(PROBLEM, BEST) == pytest.approx(4 - 5 / 40)
    assert JUDGE.score(PROBLEM, RUDE) == pytest.approx(3 - 5 / 40)
    assert JUDGE.score(PROBLEM, WRONG) == pytest.approx(1 - 5 / 40)
    assert JUDGE.score(PROBLEM, BEST + "!") == float("-inf")


def test_verdicts():
    assert JUDGE(PROBLEM, BEST, RUDE) == 1
    assert JUDGE(PROBLEM, RUDE, BEST) == 0
    assert JUDGE(PROBLEM, BEST, BEST) == 0.5
    assert JUDGE(PROBLEM, "broken", "also broken") == 0.5
    assert JUDGE(PROBLEM, RUDE, "broken") == 1


def test_right_outweighs_every_style():
    rng = random.Random(0)
    worst = [Style(False, True).reply(rng, PROBLEM) for _ in range(300)]
    assert all(JUDGE(PROBLEM, text, WRONG) == 1 for text in worst)


def test_the_styles_of_a_pair_are_told_apart():
    """Whatever the words drawn: polite over rude, terse over rambling."""
    rng = random.Random(1)
    for problem in problems(0, 100, Difficulty(2)):
        for other in (False, True):
            polite = Style(True, other).reply(rng, problem)
            assert JUDGE(problem, polite, Style(False, other).reply(rng, problem)) == 1
            terse = Style(other, False).reply(rng, problem)
            assert JUDGE(problem, terse, Style(other, True).reply(rng, problem)) == 1


def test_win_rate():
    rows = ([PROBLEM] * 4, [BEST, BEST, RUDE, WRONG], [RUDE, BEST, BEST, RUDE])
    assert win_rate(JUDGE, *rows) == pytest.approx(1.5 / 4)
    with pytest.raises(ValueError, match="1 problems, 2 replies"):
        win_rate(JUDGE, [PROBLEM], [BEST, BEST], [RUDE])
    with pytest.raises(ValueError, match="at least one"):
        win_rate(JUDGE, [], [], [])


def test_an_asked_judge_is_asked_in_both_orders():
    asked = []

    def first_place(question: str) -> str:
        asked.append(question)
        return " a.\n"

    judge = AskedJudge(first_place)
    assert (
        judge(PROBLEM, BEST, RUDE) == 0.5
    )  # a judge that favours a place says nothing
    assert asked[0].index("Sure!") < asked[0].index("Ugh.")
    assert asked[1].index("Ugh.") < asked[1].index("Sure!")
    politer = AskedJudge(lambda q: "A" if q.index("Sure") < q.index("Ugh") else "B")
    assert politer(PROBLEM, RUDE, BEST) == 0
    assert AskedJudge(lambda q: "TIE")(PROBLEM, BEST, RUDE) == 0.5
    with pytest.raises(ValueError, match="the judge said 'Well"):
        AskedJudge(lambda q: "Well, A")(PROBLEM, BEST, RUDE)


def test_an_endpoint():
    seen = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            seen.append((self.path, self.headers["Authorization"], body))
            said = {"choices": [{"message": {"content": "A"}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        assert endpoint(url, "tiny", "secret")("Which?") == "A"
        server.shutdown()
    [(path, key, body)] = seen
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["messages"] == [{"role": "user", "content": "Which?"}]
    assert (body["model"], body["temperature"]) == ("tiny", 0)

"""The lab: rewards, exam, both ways of loading, and a run that was cut off."""

import json
import re
import sys
from dataclasses import asdict, replace
from fractions import Fraction

import pytest
import torch

from posttrain import results
from posttrain.alignment import mini_grpo_unsloth_exam as exams
from posttrain.alignment import mini_grpo_unsloth_memory as memory
from posttrain.alignment import mini_grpo_unsloth_rewards as rewards
from posttrain.alignment.mini_grpo_unsloth import (
    PRESETS,
    Settings,
    import_unsloth,
    prompt_of,
)
from posttrain.alignment.mini_grpo_unsloth_exam import Answer, Question, marks

# --- rewards -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15", 15),
        (" -3 ", -3),
        ("1,234", 1234),
        ("$1,234,567.50", Fraction("1234567.5")),
        ("-$5", -5),
        ("50 %", 50),
        ("0.1", Fraction(1, 10)),
        ("15.", 15),
        ("15.0.", 15),
    ],
)
def test_a_number_is_read_exactly(text, value):
    assert rewards.number_of(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "15 coins", "12+3", "1,23", "12,3456", "fifteen", "1 5", "1e3", "٣", "--3"],
)
def test_what_is_more_or_less_than_a_number_is_none(text):
    assert rewards.number_of(text) is None


def test_a_reply_is_one_thought_and_one_number():
    assert rewards.read("<think>a\nb</think>\n7") == rewards.Reply("a\nb", Fraction(7))
    assert rewards.read("<think></think>7").thinking == ""
    assert rewards.read("<think>a</think>7 or 8") == rewards.Reply("a", None)
    nothing = rewards.Reply(None, None)
    for text in ("7", "<think>a", "a</think>7", "x<think>a</think>7"):
        assert rewards.read(text) == nothing
    for text in ("<think>a<think>b</think>7", "<think>a</think>7<think>b</think>7"):
        assert rewards.read(text) == nothing


def test_rewards_pay_each_reply_and_nothing_for_one_that_was_cut():
    tags, number, correct = rewards.reward_functions({9})
    given = {
        "completions": [
            [{"role": "assistant", "content": "<think>a</think>7"}],
            "<think>a</think>8",
            "<think>a</think>seven",
            "<think>a</think>7",
            "",
        ],
        "completion_ids": [[1, 9], [1, 9], [1, 9], [9, 1], []],
        "answer": ["7", "7.0", "7", "7", "7"],
        "prompts": [""] * 5,
        "trainer_state": None,
    }
    assert tags(**given) == [1, 1, 1, 0, 0]
    assert number(**given) == [1, 1, 0, 0, 0]
    assert correct(**given) == [1, 0, 0, 0, 0]


def test_a_cut_reply_that_happens_to_read_well_is_not_right():
    *_, correct = rewards.reward_functions({9})
    cut = {"completions": ["<think>a</think>15"], "completion_ids": [[1, 2]]}
    assert correct(**cut, answer=["15"]) == [0]


def test_rewards_say_what_is_wrong():
    with pytest.raises(ValueError, match="end_ids is empty"):
        rewards.reward_functions(set())
    *_, correct = rewards.reward_functions({9})
    with pytest.raises(ValueError, match="'many' is not a number"):
        correct(completions=["x"], completion_ids=[[9]], answer=["many"])


def test_our_own_reward_pays_just_what_the_probes_deserve():
    *_, correct = rewards.reward_functions({0})
    for case, paid in rewards.probe(correct):
        assert paid == case.deserves, case.name


def test_the_probes_catch_a_reward_that_can_be_gamed():
    def anywhere(completions, answer, **_):
        texts = [c[-1]["content"] for c in completions]
        return [float(due in text) for text, due in zip(texts, answer, strict=True)]

    wrong = [
        case.name for case, paid in rewards.probe(anywhere) if paid != case.deserves
    ]
    assert "every number from 1 to 20" in wrong
    assert len(wrong) >= 6
    with pytest.raises(ValueError, match="gave 1 values for 11"):
        rewards.probe(lambda **_: [1.0])


def test_weights_add_up_without_rounding():
    """Equal rewards must deviate by exactly zero, or no group counts as silent."""
    for settings in PRESETS.values():
        parts = [settings.tags, settings.number, settings.correct]
        sums = (torch.ones(8, 3) * torch.tensor(parts)).nansum(1)
        assert sums.std() == 0
        assert all((1024 * weight).is_integer() for weight in parts)  # exact in binary


# --- exam ----------------------------------------------------------------------------


def test_marks_count_what_the_verifier_says():
    asked = [Question("", "7")] * 4
    given = [
        Answer("<think>a</think>7", 10, True),
        Answer("<think> </think>7.0", 6, True),
        Answer("<think>a</think>seven", 8, True),
        Answer("<think>a</think>7", 16, False),
    ]
    found = marks(given, asked)
    assert (found.correct, found.number, found.tags) == (0.5, 0.5, 0.75)
    assert (found.thinks, found.ended, found.length) == (0.5, 0.75, 10)
    with pytest.raises(ValueError, match="3 answers to 4 questions"):
        marks(given[:3], asked)
    with pytest.raises(ValueError, match="at least one"):
        marks([], [])


def test_the_exam_of_a_hub_model_is_gsm8k_and_never_its_training_set():
    settings = replace(PRESETS["t4"], held_out=7)
    pool, held_out = exams.questions_for(settings)
    assert len(held_out) == 7
    assert not {q.question for q in pool} & {q.question for q in held_out}
    for question in (*pool, *held_out):
        assert rewards.number_of(question.answer) is not None, question.answer


def test_word_problems_of_the_exam_are_held_out():
    settings = replace(PRESETS["ci"], held_out=50)
    pool, held_out = exams.questions_for(settings)
    assert (len(pool), len(held_out)) == (exams.POOL, 50)
    assert not {q.question for q in pool} & {q.question for q in held_out}
    assert exams.questions_for(replace(settings, seed=1))[0] != pool
    assert exams.questions_for(replace(settings, seed=1))[1] == held_out


def test_the_verdict_compares_question_by_question():
    asked = [Question("", "7")] * 4
    right, wrong = Answer("<think></think>7", 4, True), Answer("7", 1, True)
    said = exams.verdict([right, wrong, wrong, wrong], [right] * 3 + [wrong], asked)
    # differences 0 1 1 0: deviation 0.577, over sqrt(4)
    assert "0.250 → 0.750**, a gain of +0.500 ± 0.289 over 4 questions: 67%" in said
    assert "within two standard errors" in said
    same = exams.verdict([right] * 4, [right] * 4, asked)
    assert "perfect" in same


def test_the_table_is_one_line_a_question():
    asked = [Question("How many?", "7")]
    cut = Answer("<think>a\n|b`", 400, False)
    text = exams.table([cut], asked, [Answer("x" * 500, 9, True)])
    assert text.count("\n") == 2
    assert "<think>a \\|b' (cut off)" in text
    assert len(text) < 400


def test_without_unsloth_the_lab_says_so(tmp_path, monkeypatch):
    (tmp_path / "unsloth.py").write_text("raise RuntimeError('no GPU\\nfound')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    works, said = import_unsloth()
    assert not works
    assert "RuntimeError: no GPU)" in said
    assert "PEFT" in said


def test_the_install_cell_has_the_versions_of_the_lock(root):
    cells = json.loads((root / "book/alignment/mini_grpo_unsloth.ipynb").read_text())
    (cell,) = (c for c in cells["cells"] if c["id"] == "install")
    pinned = set(re.findall(r"[\w-]+==[\w.]+", "".join(cell["source"])))
    lock = "\n".join(
        (root / name).read_text()
        for name in ("requirements.txt", "requirements-nodeps.txt", "constraints.txt")
    )
    assert len(pinned) >= 7
    assert pinned <= set(lock.split())


# --- settings and memory -------------------------------------------------------------


def test_settings_refuse_groups_that_are_torn():
    with pytest.raises(ValueError, match="batch=12 must divide"):
        Settings(batch=12)
    with pytest.raises(ValueError, match="whole groups of 8"):
        Settings(batch=4)
    assert all(settings.steps > 0 for settings in PRESETS.values())


def test_a_prompt_has_the_system_message_where_there_is_one():
    assert [m["role"] for m in prompt_of("?", None)] == ["user"]
    assert [m["role"] for m in prompt_of("?", "Think.")] == ["system", "user"]


def test_the_plan_counts_the_parameters_of_the_real_model():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**memory.QWEN_1_5B))
    names = memory.projection_shapes(memory.QWEN_1_5B)
    for name, shape in names.items():
        (found,) = {
            tuple(p.shape)
            for key, p in model.named_parameters()
            if key.endswith(f"{name}.weight")
        }
        assert found == shape
    count = sum(p.numel() for p in model.parameters())
    assert 1.5e9 < count < 1.6e9
    plan = memory.memory_plan(replace(PRESETS["t4"], four_bit=False), memory.QWEN_1_5B)
    counted = (plan["weights in 16 bit"] + plan["embeddings"]) / 2
    assert counted == pytest.approx(count, rel=2e-4)  # norms and biases are left out


def test_the_plan_for_a_t4_fits_and_grows_as_it_should():
    settings = PRESETS["t4"]
    plan = memory.memory_plan(settings, memory.QWEN_1_5B)
    assert sum(plan.values()) < 0.8 * memory.T4_BYTES
    twice = replace(settings, max_length=2 * settings.max_length)
    longer = memory.memory_plan(twice, memory.QWEN_1_5B)
    for name in ("KV cache while answering", "input of every layer"):
        assert longer[name] == 2 * plan[name]
    ranks = memory.memory_plan(replace(settings, rank=64), memory.QWEN_1_5B)
    name = "adapters, gradients, moments"
    assert ranks[name] == 2 * plan[name]


def test_nf4_costs_what_bitsandbytes_stores():
    from bitsandbytes import functional

    weight = torch.randn(256, 1024)
    codes, state = functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True
    )
    stored = codes.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()
    assert stored == memory.NF4_BYTES * weight.numel()


def test_peak_memory_is_of_this_process():
    gib, what = memory.peak_memory()
    assert 0.05 < gib < 100
    assert what == ("GPU memory" if torch.cuda.is_available() else "main memory")


def test_settings_can_be_written_down():
    assert json.loads(json.dumps(asdict(PRESETS["t4"])))["four_bit"] is True


# --- what the page says of the measured runs ------------------------------------------


def test_measured_runs():
    runs = [run["result"] for run in results.load("mini_grpo_unsloth", "cpu")["runs"]]
    assert len(runs) >= 3
    ruined = []
    for run in runs:
        sound, four_bit = run["run"]["exams"], run["four_bit"]["exams"]
        assert sound[1]["thinks"] > 0.98
        assert sound[-1]["correct"] > sound[0]["correct"] + 0.3
        assert four_bit[0]["correct"] < sound[0]["correct"] / 2
        assert four_bit[0]["correct"] + 0.5 < four_bit[-1]["correct"]
        assert four_bit[-1]["correct"] < sound[-1]["correct"]
        faults = run["faults"]
        assert faults["learning rate x 5"]["exams"][-1]["correct"] < 0.1
        silent = faults["tags are special tokens"]["steps"]
        assert all(row["reward"] == 0 and row["silent"] == 1 for row in silent)
        anywhere = faults["number anywhere"]
        paid = [row["reward"] for row in anywhere["steps"][-10:]]
        assert 0.87 < sum(paid) / 10 < 0.93
        ruined.append(anywhere["exams"][-1]["correct"] == 0)
    assert sum(ruined) == 1

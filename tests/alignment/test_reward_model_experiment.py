"""The experiment: what it holds, what was measured, and the presets for GPUs."""

import json
import random
from dataclasses import replace

import pytest
import torch

from posttrain import results
from posttrain.alignment import chat_sft_artifact as cold
from posttrain.alignment import reward_model_experiment as experiment
from posttrain.alignment.reward_model import (
    RewardModel,
    bradley_terry_loss,
    whole_rows,
)
from posttrain.alignment.reward_model_faults import LastColumn
from posttrain.alignment.reward_model_gold import read
from posttrain.alignment.reward_model_labels import draw_pairs
from posttrain.alignment.reward_model_training import PairPool, rewards_of
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers_groups import muon_and_adamw

TWO = Difficulty(2)
TINY = experiment.Preset(
    cold_start="ci",
    sizes=(16, 32),
    scratch=(16,),
    middle=32,
    flips=(1.0,),
    steps=20,
    B=8,
    tests=24,
    prompts=3,
    replies=4,
)


def small_gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(V=tokenizer().vocab_size, T=112, C=32, L=1, H=2, H_kv=1))


@pytest.fixture(scope="module")
def tiny() -> dict:
    return experiment.Lab(TINY, 0, small_gpt(), TWO).everything()


def test_the_result_holds_what_the_chapter_shows(tiny):
    assert json.loads(json.dumps(tiny)) == tiny
    assert [arm["pairs"] for arm in tiny["sizes"]] == [16, 32]
    for arm in [*tiny["best_of_n"], tiny["best_of_n_biased"]]:
        assert arm["n"] == [1, 2, 4]
        assert arm["proxy"] == sorted(arm["proxy"])
        pairs = zip(arm["gold"], arm["best_possible"], strict=True)
        assert all(came <= best + 1e-9 for came, best in pairs)
    golds = {round(arm["gold"][0], 9) for arm in tiny["best_of_n"]}
    assert len(golds) == 1  # n = 1 is the policy, whatever the proxy
    assert tiny["faults"]["last_token"]["turned"] == 0


def test_tests_are_the_same_for_every_seed_and_pairs_are_not():
    labs = [experiment.Lab(TINY, seed, small_gpt(), TWO) for seed in (0, 1)]
    assert labs[0].tests == labs[1].tests and labs[0].pool == labs[1].pool
    assert labs[0].wins.equal(labs[1].wins)
    assert labs[0].labels(9, labs[0].honest) == labs[0].labels(9, labs[0].honest)
    assert labs[0].labels(9, labs[0].honest) != labs[1].labels(9, labs[1].honest)


def test_pairs_that_differ_in_one_thing():
    rng = random.Random(0)
    for pair in draw_pairs(rng, 30):
        only = experiment.only_the_answer(rng, pair)
        assert only.gap == 2
        assert only.a.split("The answer")[0] == only.b.split("The answer")[0]
        longer = experiment.one_more_sentence(rng, pair)
        assert longer.gap == pytest.approx(-0.5)
        assert read(longer.a).rambling == read(longer.b).rambling + 1


def test_a_crowd_counts_ties_as_half():
    rng = random.Random(0)
    pairs = [pair for pair in draw_pairs(rng, 200) if pair.gap == 0]
    wins = experiment.crowd_wins(rng, pairs, experiment.Annotator(temperature=1.0))
    assert wins.tolist() == [0.5] * len(pairs)


def test_the_last_column_depends_on_the_company():
    model = LastColumn(small_gpt())
    torch.nn.init.normal_(model.gpt.head.weight)
    asked = [("Sure", "Ugh."), ("Sure", "Work it out yourself. " * 4)]
    together, alone = (rewards_of(model, asked, B) for B in (2, 1))
    assert abs(together[0] - alone[0]) > 1e-3
    assert together[1].item() == pytest.approx(alone[1].item(), abs=1e-5)


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    """A long batch of each preset fits its model, and a step can be taken."""
    setup = experiment.PRESETS[preset]
    start = cold.recipe_of(setup.cold_start)
    lab = experiment.Lab(
        replace(setup, tests=8, prompts=1, replies=2), 0, None, start.difficulty
    )
    labels = lab.labels(setup.B, lab.honest)
    tokens, last = whole_rows(PairPool.of(labels, B=setup.B)(0).replies)
    assert last.max() < tokens.shape[1] <= start.T
    with torch.device("meta"):  # shapes alone; a copy leaves FakeTensorMode
        model = RewardModel(GPT(start.config()))
        fake = torch.zeros(tokens.shape, dtype=torch.long)
        chosen, rejected = model.scores(fake)[:, -1].chunk(2)
        loss = bradley_terry_loss(chosen, rejected, centring=0.01)
        loss.backward()
        for optimizer in muon_and_adamw(model, setup.lr):
            optimizer.step()
        assert loss.shape == ()


# --- what the chapter says of the measured runs ---------------------------------------


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    found = [run["result"] for run in results.load("reward_model", "cpu")["runs"]]
    assert len(found) >= 3
    return found


def test_measured_accuracy_grows_and_arithmetic_is_not_learned(runs):
    for run in runs:
        accuracies = [arm["accuracy"] for arm in run["sizes"]]
        assert accuracies[-1] > accuracies[-2] > max(accuracies[:-2])
        for arm in run["sizes"]:
            assert 0.4 < arm["only_the_answer"] < 0.6
        assert run["noise"][0]["accuracy"] < accuracies[-2]
        assert run["noise"][-1]["accuracy"] < 0.4  # all labels turned round


def test_measured_calibration(runs):
    for run in runs:
        small, large = run["sizes"][1], run["sizes"][-1]
        assert small["error"] > 2 * large["error"]
        assert small["error_after"] < small["error"] / 2
        assert small["temperature"] > 2


def test_measured_over_optimisation(runs):
    for run in runs:
        small, large = run["best_of_n"][0], run["best_of_n"][-1]
        assert large["gold"][-1] > small["gold"][-1] + 0.5
        rises = [arm["proxy"][-1] - arm["proxy"][0] for arm in run["best_of_n"]]
        assert rises[0] == max(rises)
        for arm in run["best_of_n"]:
            assert max(arm["gold"]) > arm["gold"][-1]  # it turns
        biased = run["best_of_n_biased"]
        middle = run["config"]["sizes"].index(run["config"]["middle"])
        assert biased["gold"][-1] < run["best_of_n"][middle]["gold"][-1]
        assert biased["words"][-1] > 1.5 * biased["words"][0]


def test_measured_length_bias_and_faults(runs):
    for run in runs:
        length = run["length"]
        assert length["honest"]["gain"] < 0 < length["biased"]["gain"]
        assert length["corrected"]["gain"] < 0
        faults = run["faults"]
        assert faults["last_column"]["turned"] > 0.1
        assert faults["last_token"]["turned"] == 0
        assert faults["last_column"]["alone"] < faults["last_token"]["alone"]
        assert faults["across_prompts"] < faults["last_token"]["alone"]
        losses = faults["learning_rate"]["losses"]
        assert losses[0] == pytest.approx(0.693, abs=0.001) and max(losses) > 1.5

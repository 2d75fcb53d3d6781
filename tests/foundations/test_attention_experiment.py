"""The small language model and the experiment that compares its attention."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.foundations import attention_experiment as experiment
from posttrain.foundations.attention import causal_mask
from posttrain.foundations.attention_lm import (
    MASKS,
    CharLM,
    LMConfig,
    TrainConfig,
    evaluate,
    generate,
    learning_rate,
    make_optimizer,
    sample_windows,
    train,
    training_step,
)

TINY = LMConfig(V=7, T=8, C=12, H=3, L=2)


def tiny_preset() -> experiment.Preset:
    """All of `run` in about a second."""
    return experiment.Preset(
        LMConfig(V=0, T=12, C=12, H=3, L=2),
        TrainConfig(steps=3, B=2, lr=1e-3, log_every=2),
        val_windows=3,
        sample=5,
    )


@pytest.fixture
def tiny_run(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_OFFLINE", "1")
    monkeypatch.setitem(experiment.PRESETS, "tiny", tiny_preset())
    return experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert set(tiny_run["arms"]) == {"none", "uniform", "single", "multi", "leaky"}
    for arm in tiny_run["arms"].values():
        assert arm["curve"]["step"] == [2, 3]
        assert arm["val"] == arm["curve"]["val"][-1]
        assert sum(arm["val_by_position"]) / 12 == pytest.approx(arm["val"], abs=2e-4)
        assert len(arm["sample"]) == 5
        assert len(arm["prompt"]) == experiment.PROMPT
    tokens, weights = experiment.unpack(tiny_run["arms"]["multi"]["maps"])
    assert len(tokens) == 12
    assert (len(weights), len(weights[0])) == (2, 3)
    for row in (row for layer in weights for head in layer for row in head):
        assert sum(row) == pytest.approx(1, abs=0.005 * len(row))
    assert [len(row) for row in weights[1][2]] == list(range(1, 13))


def test_maps_survive_packing():
    rows = [[1.0, 0.0], [0.254, 0.746]]
    packed = {"tokens": "ab", "percent": [[experiment.pack(rows)]]}
    assert experiment.unpack(packed) == (["a", "b"], [[[[1.0], [0.25, 0.75]]]])


def test_same_seed_same_numbers(tiny_run):
    again = experiment.run("tiny", 0)
    for run in (tiny_run, again):
        for arm in run["arms"].values():
            del arm["seconds"]
    assert again == tiny_run


def test_arms_have_equal_parameters():
    setup = replace(tiny_preset(), model=TINY)
    counts = {
        sum(p.numel() for p in experiment.build(name, setup, 0).parameters())
        for name in experiment.ARMS
    }
    assert len(counts) == 1


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)
    with pytest.raises(ValueError, match=r"'lstm'.*'attention' or 'average'"):
        CharLM(replace(TINY, mixer="lstm"))
    with pytest.raises(ValueError, match="5 tokens, a window needs 10"):
        sample_windows(torch.zeros(5), 1, 8, torch.Generator())


@pytest.mark.parametrize("preset", ["t4", "h200"])
@pytest.mark.parametrize("arm", ["uniform", "multi"])
def test_big_presets_build_and_step(preset, arm):
    setup = experiment.PRESETS[preset]
    setup = replace(setup, model=replace(setup.model, V=65))
    T = setup.model.T
    with FakeTensorMode():
        model = experiment.build(arm, setup, 0)
        optimizer = make_optimizer(model, setup.train)
        windows = torch.zeros(setup.train.B, T + 1, dtype=torch.long)
        loss = training_step(model, optimizer, windows, causal_mask(T))
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("mask", "mixer", "depends_on"),
    [
        ("self", "average", [5]),
        ("causal", "average", [0, 1, 2, 3, 4, 5]),
        ("causal", "attention", [0, 1, 2, 3, 4, 5]),
        ("leaky", "attention", [0, 1, 2, 3, 4, 5, 6, 7]),  # one more for each layer
    ],
)
def test_what_position_5_depends_on(mask, mixer, depends_on):
    torch.manual_seed(0)
    model = CharLM(replace(TINY, mixer=mixer)).eval()
    tokens = torch.randint(7, (1, 8))
    visible = MASKS[mask](8)
    before, _ = model(tokens, visible)
    changed = []
    for t in range(8):
        other = tokens.clone()
        other[0, t] = (other[0, t] + 1) % 7
        after, _ = model(other, visible)
        if not torch.equal(after[0, 5], before[0, 5]):
            changed.append(t)
    assert changed == depends_on


def test_leaky_mask_shows_exactly_one_token_too_many():
    expected = [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert MASKS["leaky"](3).int().tolist() == expected


def test_arms_train_on_the_first_nine_tenths_only(monkeypatch):
    text = experiment.encode("abcdefghij" * 40)
    assert (len(text.train), len(text.val)) == (360, 40)
    seen = []

    def spy(model, tokens, *rest):
        seen.append(tokens)
        return train(model, tokens, *rest)

    monkeypatch.setattr(experiment, "train", spy)
    setup = tiny_preset()
    setup = replace(setup, model=replace(setup.model, V=10))
    experiment.run_arm("none", setup, text, 0)
    assert seen[0] is text.train


def test_training_learns_what_only_looking_back_can_tell():
    """In 'abcabd...' the letter after the second 'ab' needs the third-last one."""
    text = torch.tensor([0, 1, 2, 0, 1, 3] * 60)
    windows = sample_windows(text, 16, 8, torch.Generator().manual_seed(1))
    losses = {}
    for mixer, name in (("attention", "causal"), ("average", "self")):
        torch.manual_seed(0)
        model, mask = CharLM(replace(TINY, mixer=mixer)), MASKS[name](8)
        config = TrainConfig(steps=120, B=16, lr=1e-2, log_every=60)
        curve = train(model, text, windows, mask, config, torch.Generator())
        assert curve["step"] == [60, 120]
        assert curve["val"][-1] < curve["val"][0]
        losses[mixer] = evaluate(model, windows, mask)[5:].mean().item()
    # after 'b' comes 'c' or 'd', a coin flip (ln 2) for one token in three
    assert losses["average"] > 0.9 * math.log(2) / 3
    assert losses["attention"] < 0.5 * losses["average"]


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    config = TrainConfig(steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_generate_continues_and_ignores_what_is_out_of_reach():
    model = CharLM(TINY)
    prompt = torch.arange(7)
    a = generate(model, prompt, 9, causal_mask, torch.Generator().manual_seed(0))
    assert a[:7].equal(prompt)
    assert a.shape == (16,)
    longer = torch.cat([torch.zeros(5, dtype=torch.long), prompt])
    lengths = []

    def watched(T):
        lengths.append(T)
        return causal_mask(T)

    b = generate(model, longer, 9, watched, torch.Generator().manual_seed(0))
    assert b[5:].equal(a)
    assert set(lengths) == {TINY.T - 1}
    assert model.training


def test_reach_finds_a_head_that_looks_one_back():
    class OneBack:
        def eval(self):
            return self

        def __call__(self, tokens, mask):
            T = tokens.shape[1]
            weights = torch.zeros(tokens.shape[0], 1, T, T)
            late = torch.arange(experiment.NEAR, T)  # earlier queries do not count
            weights[:, :, late, late - 1] = 1.0
            early = torch.arange(experiment.NEAR)
            weights[:, :, early, early] = 1.0
            return None, [weights]

    [[distances]] = experiment.reach(OneBack(), torch.zeros(2, 12, dtype=torch.long))
    assert distances == [0, 1, *[0] * (experiment.NEAR - 1)]


def test_unscaled_scores_grow_with_the_square_root_of_d():
    for d in (16, 256):
        with_scale = experiment.softmax_at_init(d, None, seed=0)
        without = experiment.softmax_at_init(d, 1.0, seed=0)
        assert with_scale["score_std"] == pytest.approx(1, rel=0.05)
        assert without["score_std"] == pytest.approx(math.sqrt(d), rel=0.05)
        assert with_scale["room_median"] > 0.9 > without["room_median"]
        assert with_scale["dead"] == 0
    assert without["dead"] > 0.3

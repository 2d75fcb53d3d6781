"""DPO as a run: batches of pairs, the frozen reference, one step by hand."""

import copy

import pytest
import torch

from posttrain.alignment.dpo import dpo_loss, sequence_logprobs
from posttrain.alignment.dpo_training import (
    PairBatches,
    Pairs,
    Recipe,
    dpo_trainer,
    loss_of,
    pair_logprobs,
)
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import fit

TOK = tokenizer()
TRIPLES = [
    (p.question, p.demonstration(), p.demonstration(thinking=False))
    for p in problems(0, 10, Difficulty(2))
]
PAIRS = Pairs.of(TRIPLES)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(V=TOK.vocab_size, T=64, C=16, L=1, H=2, H_kv=1)).eval()


def test_pairs_as_tokens():
    batch = PAIRS.batch([3, 5])
    spelled = TOK.decode(batch.targets[0][batch.mask[0]].tolist())
    assert spelled == TRIPLES[3][1] + "<|end|>"
    spelled = TOK.decode(batch.targets[3][batch.mask[3]].tolist())
    assert spelled == TRIPLES[5][2] + "<|end|>"
    with pytest.raises(ValueError, match="2 prompts, 1 chosen"):
        Pairs([[1], [2]], [[3]], [[4], [5]])


def test_an_epoch_sees_every_pair_once(model):
    ref = torch.arange(20.0).view(2, 10)
    batches = PairBatches(PAIRS, ref, B=5)
    seen = torch.cat([batches(step).ref_logprobs[:5] for step in (0, 1)])
    assert sorted(seen.tolist()) == list(range(10))
    one = batches(0)
    assert torch.equal(one.ref_logprobs[5:], one.ref_logprobs[:5] + 10)
    assert torch.equal(one.ref_logprobs, batches(0).ref_logprobs)
    assert not torch.equal(one.ref_logprobs, batches(2).ref_logprobs)
    with pytest.raises(ValueError, match="10 pairs are fewer"):
        PairBatches(PAIRS, ref, B=11)


def test_reference_logprobs_are_those_of_each_pair(model):
    model.train()
    found = pair_logprobs(model, PAIRS, B=4)
    assert found.shape == (2, 10)
    assert not found.requires_grad
    assert model.training
    alone = sequence_logprobs(model, PAIRS.batch([7]))
    assert torch.allclose(found[:, 7], alone, atol=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "ipo"])
def test_the_loss_of_a_batch(model, kind):
    reference = copy.deepcopy(model)
    with torch.no_grad():
        model.head.weight.mul_(1.3)
    recipe = Recipe(kind=kind, beta=0.2, nll=0.5, B=4)
    batches = PairBatches(PAIRS, pair_logprobs(reference, PAIRS), B=4)
    batch = batches(0)
    policy = sequence_logprobs(model, batch.completions)
    lengths = batch.completions.lengths
    due = dpo_loss(
        *(policy[:4], policy[4:], batch.ref_logprobs[:4], batch.ref_logprobs[4:]),
        *(0.2, kind),
        lengths=(lengths[:4], lengths[4:]),
    ).sum()
    due = due - 0.5 * (policy[:4] / lengths[:4]).sum()
    assert loss_of(recipe, model, batch).item() == pytest.approx(due.item(), rel=1e-5)


def test_training_parts_the_pairs(model):
    before = pair_logprobs(model, PAIRS)
    recipe = Recipe(steps=12, B=5, lr=3e-3)
    records = []
    trainer = dpo_trainer(model, PAIRS, recipe)
    fit(trainer, records.append)
    gap = pair_logprobs(model, PAIRS) - before
    assert records[0].loss == pytest.approx(0.6931, abs=1e-3)
    assert records[0].size == 5
    assert records[-1].loss < 0.3
    assert (gap[0] > gap[1]).all()


def test_another_reference(model):
    torch.manual_seed(1)
    other = GPT(model.config).eval()
    trainer = dpo_trainer(model, PAIRS, Recipe(B=10), reference=other)
    batch = trainer.batches(0)
    assert torch.equal(trainer.batches.ref_logprobs, pair_logprobs(other, PAIRS))
    assert len(batch) == 10

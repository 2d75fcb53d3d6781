"""Parity with TRL: `DPOTrainer._compute_loss` on the same tokens, two random models."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from posttrain.alignment.completions import Completions
from posttrain.alignment.dpo import dpo_loss
from posttrain.foundations.language_model import IGNORE

WORDS = ["<pad>", "<end>", "two", "and", "is", "four", "five", "sure", "ugh", "so"]
ROWS = [
    {"prompt": "two and two is", "chosen": " sure four", "rejected": " ugh five"},
    {"prompt": "two", "chosen": " so", "rejected": " so so so and so"},
    {"prompt": "is five four", "chosen": " ugh ugh is so five", "rejected": " sure"},
]


def small_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.4,  # far from uniform
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )


def as_completions(batch: dict) -> Completions:
    """TRL's batch (chosen rows, then rejected rows) in our form."""
    ids, counts = batch["input_ids"], batch["completion_mask"].bool()
    targets = ids.masked_fill(~counts, IGNORE)
    return Completions(ids[:, :-1], targets[:, 1:])


def logprobs(model: LlamaForCausalLM, batch: Completions) -> torch.Tensor:
    """Summed over each completion: (2B,). The plain definition, for a HF model."""
    table = model(input_ids=batch.tokens).logits.log_softmax(dim=-1)
    each = table.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return (each * batch.mask).sum(dim=1)


@pytest.mark.parametrize(
    ("kind", "beta"), [("sigmoid", 0.3), ("hinge", 0.1), ("ipo", 1)]
)
def test_the_loss_and_its_gradient_are_those_of_trl(tokenizer, tmp_path, kind, beta):
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        beta=beta,
        loss_type=kind,
        per_device_train_batch_size=len(ROWS),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=small_model(0),
        ref_model=small_model(1),
        args=arguments,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    grads = [p.grad.clone() for p in trainer.model.parameters()]

    trainer.model.zero_grad()
    ours_batch = as_completions(batch)
    assert ours_batch.lengths.tolist() != [ours_batch.lengths[0].item()] * 6
    with torch.no_grad():
        ref = logprobs(trainer.ref_model, ours_batch).chunk(2)
    policy = logprobs(trainer.model, ours_batch).chunk(2)
    lengths = ours_batch.lengths.chunk(2)
    ours = dpo_loss(*policy, *ref, beta, kind, lengths=lengths).mean()
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-5)
    for due, parameter in zip(grads, trainer.model.parameters(), strict=True):
        assert torch.allclose(parameter.grad, due, atol=1e-5)

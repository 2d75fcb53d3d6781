"""Equal to transformers' reward model and to the loss of TRL's RewardTrainer."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import collate
from posttrain.alignment.reward_model import RewardModel, bradley_terry_loss
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.modern_architecture_hf import make_llama, their_name
from posttrain.foundations.tokenization import PAD

transformers = pytest.importorskip("transformers")
reward_trainer = pytest.importorskip("trl.trainer.reward_trainer")

TOK = tokenizer()
PAD_ID, END_ID = TOK.special_id(PAD), TOK.special_id(END_TURN)
PROMPT = encode_prompt(TOK, "Mia has 12 coins. How many now?")
CHOSEN = [
    encode_reply(TOK, reply)
    for reply in ("<think></think>12", "<think>12+3=15</think>15", "Sure!")
]
REJECTED = [encode_reply(TOK, reply) for reply in ("Ugh.", "<think></think>9", "7")]
MARGIN = [0.5, 0.0, 2.0]


@pytest.fixture(scope="module")
def ours() -> RewardModel:
    torch.manual_seed(0)
    config = GPTConfig(V=TOK.vocab_size, T=112, C=32, L=2, H=2, H_kv=1, qk_norm=False)
    model = RewardModel(GPT(config))
    torch.nn.init.normal_(model.gpt.head.weight)
    return model.eval()


@pytest.fixture(scope="module")
def theirs(ours):
    """Llama with one label, our weights."""
    config = make_llama(ours.gpt.config).config
    config.num_labels, config.pad_token_id = 1, PAD_ID
    model = transformers.LlamaForSequenceClassification(config).eval()
    state = ours.gpt.state_dict()
    renamed = {their_name(k): v for k, v in state.items() if k != "head.weight"}
    renamed["score.weight"] = state["head.weight"]
    model.load_state_dict(renamed)
    return model


def their_batch(margin: bool = False) -> dict:
    """The pairs as TRL collates them: chosen rows, then rejected ones."""
    rows = [
        {"chosen_ids": PROMPT + c, "rejected_ids": PROMPT + r}
        for c, r in zip(CHOSEN, REJECTED, strict=True)
    ]
    if margin:
        rows = [{**row, "margin": m} for row, m in zip(rows, MARGIN, strict=True)]
    return reward_trainer.DataCollatorForPreference(PAD_ID)(rows)


def their_loss(model, batch: dict, centring: float | None) -> torch.Tensor:
    """RewardTrainer.compute_loss itself, on a stand-in for the trainer."""
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    return reward_trainer.RewardTrainer.compute_loss(trainer, model, dict(batch))


def test_the_reward_is_that_of_transformers(ours, theirs):
    batch = their_batch()
    due = theirs(**batch).logits.squeeze(-1)
    came = ours(collate([PROMPT] * 6, CHOSEN + REJECTED, PAD_ID))
    torch.testing.assert_close(came, due, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("centring", [None, 0.01, 0.5])
def test_loss_and_gradient_are_those_of_trl(ours, theirs, margin, centring):
    due = their_loss(theirs, their_batch(margin), centring)
    (their_grad,) = torch.autograd.grad(due, theirs.score.weight)
    chosen, rejected = ours(collate([PROMPT] * 6, CHOSEN + REJECTED, PAD_ID)).chunk(2)
    margins = torch.tensor(MARGIN) if margin else 0.0
    loss = bradley_terry_loss(chosen, rejected, margins, centring=centring or 0.0)
    (grad,) = torch.autograd.grad(loss, ours.gpt.head.weight)
    torch.testing.assert_close(loss, due, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad, their_grad, atol=1e-5, rtol=1e-5)


def test_transformers_reads_another_token_where_padding_is_the_end_mark(ours, theirs):
    """It takes the last token that is not padding: not the end mark, if that pads."""
    batch = their_batch()
    theirs.config.pad_token_id = END_ID
    try:
        other = theirs(**batch).logits.squeeze(-1)
    finally:
        theirs.config.pad_token_id = PAD_ID
    rows = [PROMPT + reply for reply in CHOSEN + REJECTED]
    longest = max(map(len, rows))
    at_end = [i for i, row in enumerate(rows) if len(row) == longest]
    for i in at_end:
        before_the_end = ours.scores(torch.tensor([rows[i][:-1]]))[0, -1]
        assert other[i].item() == pytest.approx(before_the_end.item(), abs=1e-5)

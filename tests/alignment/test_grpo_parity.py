"""Our loss against TRL's `GRPOTrainer._compute_loss`, on tensors of our choice."""

import os

import pytest
import torch

from posttrain.alignment.grpo import Objective, group_advantages, policy_loss

B, T = 4, 7
LENGTHS = (7, 4, 1, 6)


def tiny_model(folder):
    """A random Llama and a tokenizer, in a folder from which TRL can load them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(("<pad>", "<eos>", "<unk>", "a", "b"))}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), tokenizer


@pytest.fixture(scope="module")
def trl_loss(tmp_path_factory):
    """loss(inputs, **settings of GRPOConfig), by TRL."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    folder, tokenizer = tiny_model(tmp_path_factory.mktemp("tiny"))

    def loss(inputs, **settings):
        trainer = GRPOTrainer(
            model=folder,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=folder,
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                per_device_train_batch_size=B,
                num_generations=B,
                max_completion_length=T,
                **settings,
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}] * B),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        given = inputs["logprobs"]
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
            given,
            torch.zeros_like(given),
            None,
        )
        ids = torch.zeros(B, T, dtype=torch.long)
        return trainer._compute_loss(
            trainer.model,
            {
                "prompt_ids": ids[:, :2],
                "prompt_mask": torch.ones_like(ids[:, :2]),
                "completion_ids": ids,
                "completion_mask": inputs["mask"].long(),
                "advantages": inputs["advantages"],
                "old_per_token_logps": inputs["old"],
                "ref_per_token_logps": inputs["ref"],
                "num_items_in_batch": inputs["mask"].sum().float(),
            },
        )

    return loss


@pytest.fixture
def inputs():
    """Ratios on both sides of both clips, for advantages of both signs."""
    rng = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(B, T, generator=rng) - 0.5
    drawn = {
        "old": old,
        "logprobs": (old + 0.8 * torch.randn(B, T, generator=rng)).clamp(max=0),
        "ref": -2 * torch.rand(B, T, generator=rng),
        "advantages": torch.tensor([1.3, -0.9, 0.4, -0.8]),
        "mask": torch.arange(T) < torch.tensor(LENGTHS)[:, None],
    }
    ratio = (drawn["logprobs"] - old).exp()
    for sign in (-1, 1):
        rows = ratio[drawn["advantages"].sign() == sign]
        assert (rows < 0.8).any() and (rows > 1.28).any()
    drawn["logprobs"].requires_grad_()
    return drawn


@pytest.mark.parametrize("beta", (0.0, 0.1))
@pytest.mark.parametrize(
    ("loss_type", "ours"),
    [
        ("grpo", {}),
        ("bnpo", {"aggregate": "token"}),
        ("dapo", {"aggregate": "token"}),
        ("dr_grpo", {"aggregate": "constant", "length": T}),
    ],
)
def test_loss_and_gradient_are_those_of_trl(trl_loss, inputs, loss_type, ours, beta):
    for ratio, delta in ((False, None), (True, 2.0)):
        theirs = trl_loss(
            inputs,
            loss_type=loss_type,
            beta=beta,
            epsilon=0.2,
            epsilon_high=0.28,
            delta=delta,
            use_bias_correction_kl=ratio,
        )
        objective = Objective(
            clip_high=0.28, beta=beta, kl_ratio=ratio, dual_clip=delta, **ours
        )
        ours_loss = policy_loss(
            inputs["logprobs"],
            inputs["old"],
            inputs["advantages"],
            inputs["mask"],
            objective,
            inputs["ref"],
        )
        torch.testing.assert_close(ours_loss, theirs, atol=1e-6, rtol=1e-6)
        gradients = [
            torch.autograd.grad(loss, inputs["logprobs"])[0]
            for loss in (ours_loss, theirs)
        ]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_advantages_are_those_of_trls_formula():
    """TRL 1.14: (rewards - mean) / (std + 1e-4), a sample's deviation, by group."""
    rewards = torch.tensor([[1.1, 0.1, 0.0, 1.1], [0.1, 0.1, 0.1, 0.1]])
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    torch.testing.assert_close(
        group_advantages(rewards), (rewards - mean) / (std + 1e-4)
    )

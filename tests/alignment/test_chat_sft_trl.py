"""Our template, masks and loss beside TRL's: token by token, and to 1e-5.

The one test file of this topic that imports TRL, which costs seconds.
"""

import pytest
import torch

from posttrain.alignment.chat_sft_checks import check_template
from posttrain.alignment.chat_sft_jinja import encode_with, hf_tokenizer
from posttrain.alignment.chat_template import encode_chat
from posttrain.alignment.completions import collate, count, total_nll
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture_hf import from_hf

TOK = tokenizer()
CALL = {
    "type": "function",
    "function": {"name": "add", "arguments": {"a": "12", "b": "é < 3"}},
}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CHATS = [
    [said("user", "Mia has 3 coins."), said("assistant", "<think>3</think>3")],
    [
        said("system", "Be brief."),
        said("user", " finds 2 more\n"),
        said("assistant", "<think></think>5"),
        said("user", "Sure?  Ünïcode 🙂"),
        said("assistant", "Of course."),
    ],
    [
        said("user", "12+3?"),
        said("assistant", "Let me see. ", tool_calls=[CALL]),
        said("tool", "15"),
        said("assistant", "15"),
    ],
    [
        said("user", "12+3?"),
        said("assistant", "", tool_calls=[CALL, CALL]),
        said("tool", "15"),
        said("tool", "15"),
        said("assistant", "Both say 15."),
        said("user", "Thanks"),
        said("assistant", "Happy to help."),
    ],
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=TOK.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=TOK.specials["<|end|>"],
        pad_token_id=TOK.specials["<|pad|>"],
    )
    arguments = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("sft")),
        assistant_only_loss=True,
        max_length=None,
        per_device_train_batch_size=len(CHATS),
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    return SFTTrainer(
        model=LlamaForCausalLM(shape),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": chat} for chat in CHATS]),
        processing_class=hf_tokenizer(),
    )


def test_processed_rows_are_our_tokens_and_masks(trainer):
    for row, chat in zip(trainer.train_dataset, CHATS, strict=True):
        ours = encode_chat(TOK, chat)
        labels = [
            token if mine else IGNORE
            for token, mine in zip(ours.tokens, ours.assistant, strict=True)
        ]
        assert row["input_ids"] == ours.tokens
        assert row["labels"] == labels


def ours_as_batch():
    chats = [encode_chat(TOK, chat) for chat in CHATS]
    return collate(
        [chat.tokens[:1] for chat in chats],
        [chat.tokens[1:] for chat in chats],
        TOK.special_id("<|pad|>"),
        [chat.assistant[1:] for chat in chats],
    )


def test_labels_and_loss_are_ours(trainer):
    theirs = trainer.data_collator(list(trainer.train_dataset))
    ours = ours_as_batch()
    assert IGNORE == -100
    assert torch.equal(theirs["labels"][:, 1:], ours.targets)
    assert torch.equal(theirs["input_ids"][:, :-1][ours.mask], ours.tokens[ours.mask])
    model = trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(theirs)).item()
        expected = total_nll(from_hf(model), ours).item() / count(ours)
    assert loss == pytest.approx(expected, abs=1e-5)


def test_the_twin_agrees_at_every_prompt_of_every_chat():
    encode = encode_with(hf_tokenizer())
    for chat in CHATS:
        assert encode(chat, False) == encode_chat(TOK, chat)
        for i, message in enumerate(chat):
            if message["role"] == "assistant":
                assert encode(chat[:i], False) == encode_chat(TOK, chat[:i])
                prompt = encode_chat(TOK, chat[:i], generation_prompt=True)
                assert encode(chat[:i], True) == prompt


def test_twin_has_our_ids_for_hard_texts():
    theirs = hf_tokenizer()
    for text in ("", " ", "\n\n a  b", "x1234,é🙂漢字", "don't <b>", "finds 12 more."):
        assert theirs.encode(text, add_special_tokens=False) == TOK.encode(text)
    marked = "<think>1</think><|end|>"
    assert theirs.encode(marked) == TOK.encode(marked, allowed_special="all")


def test_roles_that_are_not_known_are_refused_by_both():
    import jinja2

    with pytest.raises(jinja2.exceptions.TemplateError, match="role bot is not known"):
        encode_with(hf_tokenizer())([said("bot", "")], False)


def test_the_plain_twin_can_be_forged_and_the_safe_one_cannot():
    def faults(theirs):
        found = check_template(encode_with(theirs), TOK.specials, TOK.decode)
        return {fault.name for fault in found}

    assert faults(hf_tokenizer()) == {"content forges a mark"}
    assert not faults(hf_tokenizer(safe=True))

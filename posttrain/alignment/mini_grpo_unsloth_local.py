"""The book's cold start as a folder that Unsloth and transformers can load.

    save_cold_start(folder, "cpu")
    FastLanguageModel.from_pretrained(str(folder), ...)

Our model is a Qwen3 by another name, so it is written as one. Two tokens change their
kind on the way: a decoder that skips special tokens, as TRL's does, would remove
`<think>` and `</think>` before any reward sees them. So here they are whole tokens, but
not special ones, as in Qwen3's own tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import artifacts
from posttrain.alignment.chat_sft_artifact import restore
from posttrain.alignment.chat_sft_jinja import hf_tokenizer
from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.foundations.modern_architecture_hf import to_hf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def save_cold_start(folder: Path, preset: str) -> None:
    """Write the model and its tokenizer."""
    ours, _ = restore(artifacts.get("alignment.chat_sft", preset))
    theirs = to_hf(ours)
    tokenizer = hf_tokenizer(plain=(THINK, END_THINK))
    for config in (theirs.config, theirs.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tags_made_special(
    tokenizer: PreTrainedTokenizerBase,
) -> PreTrainedTokenizerBase:
    """The same tokenizer, whose decoder now drops the tags: the fault of the lab."""
    lossy = hf_tokenizer()
    lossy.chat_template = tokenizer.chat_template
    lossy.padding_side = tokenizer.padding_side
    return lossy

"""Our chat template as production has it: a Jinja string in a `transformers` tokenizer.

    theirs = hf_tokenizer()
    theirs.apply_chat_template(messages, tokenize=False)
    encode_with(theirs)(messages, generation_prompt=True)         # a Chat, as ours

`{% generation %}` and `{% endgeneration %}` enclose what the assistant writes; TRL's
`assistant_only_loss` reads the mask from there. A Jinja template renders *text*, which
is then encoded with every special allowed: here, unlike in `encode_chat`, a user's
"<|end|>" becomes the token. `hf_tokenizer(safe=True)` renders "<|" of other people's
words as "< |", which no longer spells a mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from posttrain.alignment.chat_template import Chat, Message
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.tokenization_gpt2 import to_hugging_face

if TYPE_CHECKING:  # importing transformers costs seconds: only its users pay
    from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('role ' ~ message.role ~ ' is not known') }}"
    "{% endif %}"
    "{{ '<|' ~ message.role ~ '|>' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}"
    "{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' ~ (call.function | tojson) ~ '</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endgeneration %}"
    "{% else %}"
    "{{ message.content ~ '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SAFE_TEMPLATE = TEMPLATE.replace(
    "{{ message.content ~ '<|end|>' }}",
    "{{ (message.content | replace('<|', '< |') | replace('<think>', '< think>')"
    " | replace('</think>', '< /think>') | replace('<tool_call>', '< tool_call>')"
    " | replace('</tool_call>', '< /tool_call>')) ~ '<|end|>' }}",
)


def hf_tokenizer(
    template: str = TEMPLATE, safe: bool = False, plain: Collection[str] = ()
) -> PreTrainedTokenizerFast:
    """The twin of our tokenizer: the same ids for the same text, and a template.

    safe: SAFE_TEMPLATE, whatever `template` says. plain: the marks that stay in a text
    that is decoded with `skip_special_tokens=True`.
    """
    from transformers import PreTrainedTokenizerFast

    ours = tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=to_hugging_face(ours.model, ours.specials, plain),
        eos_token=END_TURN,
        pad_token=PAD,
        chat_template=SAFE_TEMPLATE if safe else template,
        clean_up_tokenization_spaces=False,
    )


def encode_with(
    theirs: PreTrainedTokenizerFast,
) -> Callable[[Sequence[Message], bool], Chat]:
    """A tokenizer of `transformers` as a function like `encode_chat`.

    A template without a generation block gives a mask of False throughout.
    """
    has_block = re.search(r"\{%-?\s*generation\b", theirs.chat_template) is not None

    def encode(messages: Sequence[Message], generation_prompt: bool = False) -> Chat:
        found = theirs.apply_chat_template(
            list(messages),
            add_generation_prompt=generation_prompt,
            return_dict=True,
            return_assistant_tokens_mask=has_block,
        )
        tokens = list(found["input_ids"])
        mask = found["assistant_masks"] if has_block else [False] * len(tokens)
        return Chat(tokens, [bool(mine) for mine in mask])

    return encode

"""What goes wrong in the exercise `chat_sft`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one
place only, they share it as a base and change that place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from posttrain.checks.task import Mistake

IGNORE = -100
ROLES = ("system", "user", "assistant", "tool")
THOUGHT = ("<think>", "</think>")

# ---------------------------------------------------------------- render_chat


def render(messages, prompt, turn="<|{role}|>{content}<|end|>", tail="<|assistant|>"):
    """A right answer with its two formats to be changed."""
    for message in messages:
        if message["role"] not in ROLES:
            raise ValueError(message["role"])
    return "".join(turn.format(**message) for message in messages) + tail * prompt


def render_without_prompt(messages, generation_prompt=False):
    return render(messages, False)


def render_always_prompt(messages, generation_prompt=False):
    return render(messages, True)


def render_with_newlines(messages, generation_prompt=False):
    return render(messages, generation_prompt, "<|{role}|>{content}<|end|>\n")


def render_space_in_prompt(messages, generation_prompt=False):
    return render(messages, generation_prompt, tail="<|assistant|> ")


def render_stripped(messages, generation_prompt=False):
    stripped = [{**m, "content": m["content"].strip()} for m in messages]
    return render(stripped, generation_prompt)


def render_any_role(messages, generation_prompt=False):
    turns = ["<|{role}|>{content}<|end|>".format(**m) for m in messages]
    return "".join(turns) + "<|assistant|>" * generation_prompt


def render_last_turn_open(messages, generation_prompt=False):
    text = render(messages, False)
    if messages[-1]["role"] == "assistant":
        text = text.removesuffix("<|end|>")
    return text + "<|assistant|>" * generation_prompt


def render_prompt_for_others_only(messages, generation_prompt=False):
    ours = messages[-1]["role"] == "assistant"
    return render(messages, generation_prompt and not ours)


# ---------------------------------------------------------------- encode_chat


def encoded(
    messages, encode, specials, prompt, *, header=False, end=True, ours=(), allowed=None
):
    """A right answer. ours: roles beside the assistant that count; allowed: by role."""
    allowed = {"assistant": THOUGHT} if allowed is None else allowed
    tokens, assistant = [], []
    for message in messages:
        role = message["role"]
        said = encode(message["content"], allowed.get(role, ()))
        tokens += [specials[f"<|{role}|>"], *said, specials["<|end|>"]]
        mine = role in ("assistant", *ours)
        assistant += [mine and header, *[mine] * len(said), mine and end]
    if prompt:
        tokens.append(specials["<|assistant|>"])
        assistant.append(False)
    return tokens, assistant


def encode_end_not_trained(messages, encode, specials, generation_prompt=False):
    return encoded(messages, encode, specials, generation_prompt, end=False)


def encode_header_trained(messages, encode, specials, generation_prompt=False):
    return encoded(messages, encode, specials, generation_prompt, header=True)


def encode_tool_trained(messages, encode, specials, generation_prompt=False):
    return encoded(messages, encode, specials, generation_prompt, ours=("tool",))


def encode_all_trained(messages, encode, specials, generation_prompt=False):
    tokens, _ = encoded(messages, encode, specials, generation_prompt)
    return tokens, [True] * len(tokens)


def encode_user_forges(messages, encode, specials, generation_prompt=False):
    everything = dict.fromkeys(ROLES, tuple(specials))
    return encoded(messages, encode, specials, generation_prompt, allowed=everything)


def encode_assistant_forges(messages, encode, specials, generation_prompt=False):
    everything = {"assistant": tuple(specials)}
    return encoded(messages, encode, specials, generation_prompt, allowed=everything)


def encode_everybody_thinks(messages, encode, specials, generation_prompt=False):
    own = dict.fromkeys(ROLES, THOUGHT)
    return encoded(messages, encode, specials, generation_prompt, allowed=own)


def encode_system_thinks(messages, encode, specials, generation_prompt=False):
    own = {"system": THOUGHT, "assistant": THOUGHT}
    return encoded(messages, encode, specials, generation_prompt, allowed=own)


def encode_nobody_thinks(messages, encode, specials, generation_prompt=False):
    return encoded(messages, encode, specials, generation_prompt, allowed={})


def encode_mask_shifted(messages, encode, specials, generation_prompt=False):
    tokens, assistant = encoded(messages, encode, specials, generation_prompt)
    return tokens, [*assistant[1:], False]


def encode_last_turn_only(messages, encode, specials, generation_prompt=False):
    tokens, assistant = encoded(messages, encode, specials, generation_prompt)
    mark = specials["<|assistant|>"]
    last = max((t for t in range(len(tokens) - 1) if tokens[t] == mark), default=0)
    return tokens, [mine and t > last for t, mine in enumerate(assistant)]


# ---------------------------------------------------------------- collate


def collated(chats, pad, mask_of=lambda mine: mine[1:], targets_of=lambda t: t[1:]):
    """A right answer with its mask and its targets to be changed."""
    T = max(len(tokens) for tokens, _ in chats) - 1
    inputs = torch.full((len(chats), T), pad)
    targets = torch.full((len(chats), T), IGNORE)
    for b, (tokens, assistant) in enumerate(chats):
        n = len(tokens) - 1
        inputs[b, :n] = torch.tensor(tokens[:-1])
        counts = torch.tensor(mask_of(assistant), dtype=torch.bool)
        row = torch.tensor(targets_of(tokens))
        targets[b, :n] = row.masked_fill(~counts, IGNORE)
    return inputs, targets


def collate_not_shifted(chats, pad):
    return collated(chats, pad, lambda mine: mine[:-1], lambda tokens: tokens[:-1])


def collate_mask_not_shifted(chats, pad):
    return collated(chats, pad, lambda mine: mine[:-1])


def collate_all_counts(chats, pad):
    return collated(chats, pad, lambda mine: [True] * (len(mine) - 1))


def collate_pad_masked_by_id(chats, pad):
    inputs, targets = collated(chats, pad)
    return inputs, targets.masked_fill(targets == pad, IGNORE)


def collate_padding_counts(chats, pad):
    inputs, targets = collated(chats, pad)
    for b, (tokens, _) in enumerate(chats):
        targets[b, len(tokens) - 1 :] = pad
    return inputs, targets


def collate_ignored_are_zero(chats, pad):
    inputs, targets = collated(chats, pad)
    return inputs, targets.masked_fill(targets == IGNORE, 0)


def collate_padded_left(chats, pad):
    inputs, targets = collated(chats, pad)
    for b, (tokens, _) in enumerate(chats):
        empty = inputs.shape[1] - len(tokens) + 1
        inputs[b], targets[b] = inputs[b].roll(empty), targets[b].roll(empty)
    return inputs, targets


def collate_prompt_hidden(chats, pad):
    inputs, targets = collated(chats, pad)
    return inputs.masked_fill(targets == IGNORE, pad), targets


# ---------------------------------------------------------------- sft_loss


def summed(logits, targets):
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="sum"
    )


def counted(micro_batches):
    n = sum(int((targets != IGNORE).sum()) for _, targets in micro_batches)
    if not n:
        raise ValueError("no target counts")
    return n


def loss_mean_of_means(micro_batches):
    counted(micro_batches)
    means = [
        summed(logits, targets) / max(1, int((targets != IGNORE).sum()))
        for logits, targets in micro_batches
    ]
    return sum(means) / len(means)


def loss_mean_of_rows(micro_batches):
    counted(micro_batches)
    rows = [
        summed(x[None], t[None]) / int((t != IGNORE).sum())
        for logits, targets in micro_batches
        for x, t in zip(logits, targets, strict=True)
        if (t != IGNORE).any()
    ]
    return sum(rows) / len(rows)


def loss_over_all_places(micro_batches):
    counted(micro_batches)
    places = sum(targets.numel() for _, targets in micro_batches)
    return sum(summed(*micro) for micro in micro_batches) / places


def loss_summed(micro_batches):
    counted(micro_batches)
    return sum(summed(*micro) for micro in micro_batches)


def loss_over_rows(micro_batches):
    counted(micro_batches)
    rows = sum(len(targets) for _, targets in micro_batches)
    return sum(summed(*micro) for micro in micro_batches) / rows


def loss_sum_of_means(micro_batches):
    return loss_mean_of_means(micro_batches) * len(micro_batches)


def loss_shifted_again(micro_batches):
    counted(micro_batches)
    pairs = [(x[:, :-1], t[:, 1:]) for x, t in micro_batches]
    n = max(1, sum(int((t != IGNORE).sum()) for _, t in pairs))
    return sum(summed(*pair) for pair in pairs) / n


def loss_in_low_precision(micro_batches):
    n = counted(micro_batches)
    parts = [
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        for logits, targets in micro_batches
    ]
    return (sum(parts) / n).float()


def loss_not_a_number(micro_batches):
    n = sum(int((targets != IGNORE).sum()) for _, targets in micro_batches)
    return sum(summed(*micro) for micro in micro_batches) / n


# ---------------------------------------------------------------- pack


def packed(
    chats, plan, T, pad, *, across=False, ahead=False, run_on=False, itself=True
):
    """A right answer with places to go wrong."""
    shape = (len(plan), T)
    tokens, targets = torch.full(shape, pad), torch.full(shape, IGNORE)
    positions = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(*shape, T, dtype=torch.bool)
    for n, row in enumerate(plan):
        start = 0
        for i in row:
            written, assistant = chats[i]
            end = start + len(written)
            tokens[n, start:end] = torch.tensor(written)
            for t in range(len(written) - 1):
                if assistant[t + 1]:
                    targets[n, start + t] = written[t + 1]
            positions[n, start:end] = torch.arange(start, end) - start * (not run_on)
            first = 0 if across else start
            square = torch.ones(end - start, end - first, dtype=torch.bool)
            if not ahead:
                square = square.tril(start - first - (not itself))
            mask[n, start:end, first:end] = square
            start = end
    return tokens, targets, positions, mask


def pack_positions_run_on(chats, plan, T, pad):
    return packed(chats, plan, T, pad, run_on=True)


def pack_looks_across(chats, plan, T, pad):
    return packed(chats, plan, T, pad, across=True)


def pack_looks_ahead(chats, plan, T, pad):
    return packed(chats, plan, T, pad, ahead=True)


def pack_not_itself(chats, plan, T, pad):
    return packed(chats, plan, T, pad, itself=False)


def pack_padding_counts(chats, plan, T, pad):
    tokens, targets, positions, mask = packed(chats, plan, T, pad)
    empty = ~mask.any(-1)
    return tokens, torch.where(empty, tokens, targets), positions, mask


def pack_padding_looks(chats, plan, T, pad):
    tokens, targets, positions, mask = packed(chats, plan, T, pad)
    empty = ~mask.any(-1)
    among = empty[:, :, None] & empty[:, None, :]
    return tokens, targets, positions, mask | among.tril()


def pack_across_boundaries(chats, plan, T, pad):
    """Targets of the joined row: the last token of a chat predicts the next chat."""
    tokens, targets, positions, mask = packed(chats, plan, T, pad)
    for n, row in enumerate(plan):
        mine = [x for i in row for x in chats[i][1]]
        for t in range(len(mine) - 1):
            targets[n, t] = tokens[n, t + 1] if mine[t + 1] else IGNORE
    return tokens, targets, positions, mask


def pack_mask_of_this_token(chats, plan, T, pad):
    """The mask of the token itself decides, not that of the one it predicts."""
    tokens, targets, positions, mask = packed(chats, plan, T, pad)
    for n, row in enumerate(plan):
        start = 0
        for i in row:
            written, assistant = chats[i]
            for t in range(len(written) - 1):
                counts = assistant[t]
                targets[n, start + t] = written[t + 1] if counts else IGNORE
            start += len(written)
    return tokens, targets, positions, mask


# ---------------------------------------------------------------- template_faults


def lint(encode, messages, end, no_prompt=None, no_prefix=None, ends=None, head=None):
    """A right answer, whose four questions can be asked otherwise."""
    before, _ = encode(messages[:-1], False)
    prompt, _ = encode(messages[:-1], True)
    whole, assistant = encode(messages, False)
    turn, mine = whole[len(before) :], assistant[len(before) :]
    answers = {
        "no generation prompt": no_prompt or (lambda: prompt == before),
        "prompt is no prefix": no_prefix or (lambda: whole[: len(prompt)] != prompt),
        "end mark is not learned": ends
        or (lambda: (end, True) not in zip(turn, mine, strict=True)),
        "header is learned": head or (lambda: mine[0]),
    }
    return {name for name, answer in answers.items() if answer()}


def lint_lengths(encode, messages, end):
    prompt, whole = encode(messages[:-1], True)[0], encode(messages, False)[0]
    return lint(encode, messages, end, no_prefix=lambda: len(prompt) > len(whole))


def lint_prefix_means_in(encode, messages, end):
    prompt, whole = encode(messages[:-1], True)[0], encode(messages, False)[0]
    return lint(encode, messages, end, no_prefix=lambda: not set(prompt) <= set(whole))


def lint_last_token(encode, messages, end):
    whole, mine = encode(messages, False)
    return lint(encode, messages, end, ends=lambda: whole[-1] != end or not mine[-1])


def lint_end_is_somewhere(encode, messages, end):
    start = len(encode(messages[:-1], False)[0])
    whole, _ = encode(messages, False)
    return lint(encode, messages, end, ends=lambda: end not in whole[start:])


def lint_any_end(encode, messages, end):
    whole, mine = encode(messages, False)
    pairs = list(zip(whole, mine, strict=True))
    return lint(encode, messages, end, ends=lambda: (end, True) not in pairs)


def lint_header_up_to_prompt(encode, messages, end):
    n, (_, mine) = len(encode(messages[:-1], True)[0]), encode(messages, False)
    return lint(encode, messages, end, head=lambda: any(mine[:n]))


def lint_prompt_of_one(encode, messages, end):
    before, prompt = (encode(messages[:-1], flag)[0] for flag in (False, True))
    missing = len(prompt) != len(before) + 1
    return lint(encode, messages, end, no_prompt=lambda: missing)


def lint_turn_behind_the_prompt(encode, messages, end):
    n, (whole, mine) = len(encode(messages[:-1], True)[0]), encode(messages, False)
    pairs = list(zip(whole[n:], mine[n:], strict=True))
    return lint(encode, messages, end, ends=lambda: (end, True) not in pairs)


def lint_last_of_the_prompt(encode, messages, end):
    prompt, (whole, _) = encode(messages[:-1], True)[0], encode(messages, False)
    n = len(prompt)
    return lint(
        encode, messages, end, no_prefix=lambda: whole[n - 1 : n] != prompt[-1:]
    )


# ---------------------------------------------------------------- reply_of


def reply_keeps_stop(step, prompt, stop, max_new):
    reply = []
    for _ in range(max_new):
        reply.append(step([*prompt, *reply]))
        if reply[-1] == stop:
            return reply, True
    return reply, False


def reply_one_too_many(step, prompt, stop, max_new):
    return right_reply(step, prompt, stop, max_new + 1)


def reply_one_too_few(step, prompt, stop, max_new):
    return right_reply(step, prompt, stop, max_new - 1)


def reply_always_finished(step, prompt, stop, max_new):
    return right_reply(step, prompt, stop, max_new)[0], True


def reply_never_stops(step, prompt, stop, max_new):
    reply = []
    for _ in range(max_new):
        reply.append(step([*prompt, *reply]))
    return [token for token in reply if token != stop], stop in reply


def reply_looks_at_prompt(step, prompt, stop, max_new):
    tokens = list(prompt)
    while stop not in tokens and len(tokens) < len(prompt) + max_new:
        tokens.append(step(list(tokens)))
    reply = tokens[len(prompt) :]
    return [t for t in reply if t != stop], stop in tokens


def reply_writes_into_prompt(step, prompt, stop, max_new):
    reply = []
    for _ in range(max_new):
        token = step(list(prompt))
        if token == stop:
            return reply, True
        prompt.append(token)
        reply.append(token)
    return reply, False


def reply_forgets_itself(step, prompt, stop, max_new):
    return right_reply(lambda _: step(list(prompt)), prompt, stop, max_new)


def right_reply(step, prompt, stop, max_new):
    reply = []
    for _ in range(max_new):
        token = step([*prompt, *reply])
        if token == stop:
            return reply, True
        reply.append(token)
    return reply, False


MISTAKES = {
    "render_chat": (
        Mistake(
            render_without_prompt,
            "`generation_prompt` is not used. With it the text ends in the mark of the"
            " assistant's turn, so that the model goes on as the assistant.",
        ),
        Mistake(
            render_always_prompt,
            "the mark of the assistant's turn stands at the end even when no generation"
            " prompt is asked for. Training text would end in a header that nobody"
            " fills.",
        ),
        Mistake(
            render_with_newlines,
            "there is a line break behind each turn. This template has none: every"
            " character counts, because every character becomes a token.",
        ),
        Mistake(
            render_space_in_prompt,
            "the generation prompt ends in a space. In training the reply follows the"
            " mark directly; at inference your model would see a token it never saw"
            " there.",
        ),
        Mistake(
            render_stripped,
            "the content is stripped. A template hands content on as it is; white space"
            " that changes between training and inference changes tokens.",
        ),
        Mistake(
            render_any_role,
            "a role that is not known must raise ValueError. A misspelt role would"
            " become a mark that the tokenizer spells out as text.",
        ),
        Mistake(
            render_last_turn_open,
            "the assistant's last turn has no end mark. It must: the mark is what the"
            " model learns to stop with.",
        ),
        Mistake(
            render_prompt_for_others_only,
            "whoever asks for a generation prompt gets one, behind an assistant's turn"
            " as well. Whether that makes sense is the caller's business.",
        ),
    ),
    "encode_chat": (
        Mistake(
            encode_end_not_trained,
            "the end mark of the assistant's turn is not marked. It is the one token"
            " that the model has to write in order to stop: without it in the loss,"
            " generation runs until the limit.",
        ),
        Mistake(
            encode_header_trained,
            "the mark of the assistant's turn is marked as the assistant's. It is given"
            " to the model at inference; the assistant writes what comes after it.",
        ),
        Mistake(
            encode_tool_trained,
            "a tool's words are marked. The model reads them; trained on them, it"
            " learns to make up results of calls.",
        ),
        Mistake(
            encode_all_trained,
            "everything is marked. Only what the assistant wrote is a target: content"
            " and end mark of its turns.",
        ),
        Mistake(
            encode_user_forges,
            "a user can write marks. The text '<|end|><|assistant|>' in a message must"
            " stay text: encode what others say with no special allowed.",
        ),
        Mistake(
            encode_assistant_forges,
            "the assistant's content may hold the two marks of thinking, and no mark of"
            " a turn: a reply that quotes '<|user|>' must not open one.",
        ),
        Mistake(
            encode_everybody_thinks,
            "a user or a tool can write the marks of thinking. Only the assistant's"
            " content may hold them.",
        ),
        Mistake(
            encode_system_thinks,
            "the system's message is text, too: `<think>` in it is no mark. Only the"
            " assistant may write marks.",
        ),
        Mistake(
            encode_nobody_thinks,
            "the marks of thinking in the assistant's content are spelled out. Allow"
            " '<think>' and '</think>' there.",
        ),
        Mistake(
            encode_mask_shifted,
            "the mask is shifted by one. Here it belongs to the tokens themselves; the"
            " shift to targets comes later, for tokens and mask alike.",
        ),
        Mistake(
            encode_last_turn_only,
            "only the last turn of the assistant is marked. All of them were written by"
            " it, and each one is a demonstration.",
        ),
    ),
    "collate": (
        Mistake(
            collate_not_shifted,
            "the target at t is the token at t itself. It must be the one after it, or"
            " the model learns to copy its input.",
        ),
        Mistake(
            collate_mask_not_shifted,
            "the targets are shifted and the mask is not. `targets[t]` counts if the"
            " assistant wrote token t + 1. As it is, the first token of each reply is"
            " lost, and the token behind the reply is learned.",
        ),
        Mistake(
            collate_all_counts,
            "the mask is not used: the user's words are targets as well.",
        ),
        Mistake(
            collate_pad_masked_by_id,
            "you mask every target that equals the padding's id. Where padding and end"
            " mark are the same token, as in many tokenizers, this takes the end mark"
            " out of the loss, and the model never stops. Mask by place.",
        ),
        Mistake(
            collate_padding_counts,
            "padding is a target. Behind the last token of a row the targets are -100.",
        ),
        Mistake(
            collate_ignored_are_zero,
            "what does not count must be -100. 0 is the id of a token, and the loss"
            " would train the model to write it.",
        ),
        Mistake(
            collate_padded_left,
            "the rows are padded on the left. Here they begin at the left, so that the"
            " causal mask alone hides the padding.",
        ),
        Mistake(
            collate_prompt_hidden,
            "the inputs are masked as well. The model must read the prompt; only the"
            " targets leave it out.",
        ),
    ),
    "sft_loss": (
        Mistake(
            loss_mean_of_means,
            "you average the means of the micro-batches. A token in a short"
            " micro-batch then weighs more than one in a long one. Add up the sums,"
            " divide once by the number of targets of all of them.",
        ),
        Mistake(
            loss_mean_of_rows,
            "you average over conversations: a token of a short reply weighs more than"
            " one of a long reply. Each *token* has the same weight here.",
        ),
        Mistake(
            loss_over_all_places,
            "you divide by all places. Prompts and padding do not count: divide by the"
            " number of targets that are not -100.",
        ),
        Mistake(
            loss_summed,
            "the sum is not divided by the number of targets.",
        ),
        Mistake(
            loss_over_rows,
            "you divide by the number of rows. Divide by the number of targets.",
        ),
        Mistake(
            loss_sum_of_means,
            "the means of the micro-batches are added up: the gradient grows with the"
            " number of micro-batches.",
        ),
        Mistake(
            loss_shifted_again,
            "the targets are shifted already: `targets[b, t]` is what comes after"
            " place t. You shift them once more.",
        ),
        Mistake(
            loss_in_low_precision,
            "the log-softmax is taken in the precision of the logits. In bfloat16 that"
            " has two or three digits: turn the logits into float32 first.",
        ),
        Mistake(
            loss_not_a_number,
            "where no target counts at all you divide by zero. Raise ValueError, or"
            " NaN spreads from that step into every weight.",
        ),
    ),
    "pack": (
        Mistake(
            pack_positions_run_on,
            "the positions run on through the row. They start at 0 in each chat, as"
            " they would if it stood alone.",
        ),
        Mistake(
            pack_looks_across,
            "a chat can look at those before it in the row. Its loss would depend on"
            " who its neighbours are.",
        ),
        Mistake(pack_looks_ahead, "the mask of a chat is not causal."),
        Mistake(pack_not_itself, "a token may look at itself."),
        Mistake(pack_padding_counts, "padding is a target. Leave -100 there."),
        Mistake(
            pack_padding_looks,
            "the mask is True among padding. It must be False there: no chat.",
        ),
        Mistake(
            pack_across_boundaries,
            "the last token of a chat predicts the first of its neighbour. It has no"
            " target.",
        ),
        Mistake(
            pack_mask_of_this_token,
            "whether a target counts is read from the token itself. It is the *next*"
            " token that must be the assistant's.",
        ),
    ),
    "template_faults": (
        Mistake(
            lint_lengths,
            "you compare lengths. The prompt must be, token by token, how the whole"
            " conversation begins.",
        ),
        Mistake(
            lint_prefix_means_in,
            "that the prompt's tokens occur somewhere does not make it a prefix.",
        ),
        Mistake(
            lint_last_token,
            "you look at the last token. Some templates write a line break behind the"
            " end mark; find the mark itself.",
        ),
        Mistake(
            lint_end_is_somewhere,
            "that the end mark is there is not enough: is it marked as the"
            " assistant's?",
        ),
        Mistake(
            lint_any_end,
            "an end mark of an earlier turn is not enough: look at the last turn, that"
            " is, behind `encode(messages[:-1], False)`.",
        ),
        Mistake(
            lint_header_up_to_prompt,
            "you look at all tokens under the prompt. A prompt that is too long reaches"
            " into the reply: look at the first token of the assistant's turn only.",
        ),
        Mistake(
            lint_prompt_of_one,
            "a generation prompt may be longer than one token. It is missing when it"
            " adds nothing.",
        ),
        Mistake(
            lint_turn_behind_the_prompt,
            "the last turn begins behind `encode(messages[:-1], False)`. A prompt that"
            " is too long may cover the end mark.",
        ),
        Mistake(
            lint_last_of_the_prompt,
            "one token that agrees is not enough: compare the whole prompt, token by"
            " token.",
        ),
    ),
    "reply_of": (
        Mistake(
            reply_keeps_stop,
            "the stop mark is part of the reply. It ends the turn and is no text:"
            " leave it out.",
        ),
        Mistake(reply_one_too_many, "at most `max_new` tokens, you take one more."),
        Mistake(reply_one_too_few, "`max_new` tokens are allowed, you take one less."),
        Mistake(
            reply_always_finished,
            "a reply that was cut by the limit is not finished. Who scores it has to"
            " know.",
        ),
        Mistake(
            reply_never_stops,
            "the model is asked for more after it wrote the stop mark.",
        ),
        Mistake(
            reply_looks_at_prompt,
            "you look for the stop mark in the prompt as well. Earlier turns end in it:"
            " only new tokens count.",
        ),
        Mistake(
            reply_writes_into_prompt,
            "the caller's prompt has changed. Work on a list of your own.",
        ),
        Mistake(
            reply_forgets_itself,
            "the model is given the prompt alone at each step. It needs what it has"
            " written so far, too.",
        ),
    ),
}

"""Answers that the grader of `chat_sft` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import itertools

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- render_chat


def render_joined(messages, generation_prompt=False):
    known = {"system", "user", "assistant", "tool"}
    roles = [message["role"] for message in messages]
    if not known.issuperset(roles):
        raise ValueError("unknown role")
    parts = [f"<|{m['role']}|>" + m["content"] + "<|end|>" for m in messages]
    if generation_prompt:
        parts.append("<|assistant|>")
    return "".join(parts)


def render_one_user_mark(messages, generation_prompt=False):
    if any(m["role"] not in ("system", "user", "assistant", "tool") for m in messages):
        raise ValueError("unknown role")
    text = "".join(
        ("<|assistant|>" if m["role"] == "assistant" else "<|user|>")
        + m["content"]
        + "<|end|>"
        for m in messages
    )
    return text + "<|assistant|>" * generation_prompt


# ---------------------------------------------------------------- encode_chat


def encode_in_pairs(messages, encode, specials, generation_prompt=False):
    pairs = []
    for message in messages:
        ours = message["role"] == "assistant"
        allowed = ["<think>", "</think>"] if ours else []
        pairs.append((specials["<|" + message["role"] + "|>"], 0))
        pairs.extend((i, int(ours)) for i in encode(message["content"], allowed))
        pairs.append((specials["<|end|>"], int(ours)))
    if generation_prompt:
        pairs.append((specials["<|assistant|>"], 0))
    return tuple(zip(*pairs, strict=True))


def encode_pieces_apart(messages, encode, specials, generation_prompt=False):
    """The thought's marks by hand; no special allowed anywhere."""
    import re

    tokens, mask = [], []
    for message in messages:
        ours, content = message["role"] == "assistant", message["content"]
        parts = re.split("(</?think>)", content) if ours else [content]
        said = []
        for part in parts:
            mark = ours and part in ("<think>", "</think>")
            said += [specials[part]] if mark else encode(part)
        tokens += [specials[f"<|{message['role']}|>"], *said, specials["<|end|>"]]
        mask += [False] + [ours] * (len(said) + 1)
    if generation_prompt:
        tokens, mask = [*tokens, specials["<|assistant|>"]], [*mask, False]
    return tokens, mask


def encode_prompt_counts(messages, encode, specials, generation_prompt=False):
    tokens, mask = encode_in_pairs(messages, encode, specials, generation_prompt)
    return tokens, [*mask[:-1], 1] if generation_prompt else mask


# ---------------------------------------------------------------- collate


def collate_by_lists(chats, pad):
    T = max(len(tokens) for tokens, _ in chats) - 1
    inputs, targets = [], []
    for tokens, assistant in chats:
        empty = T - len(tokens) + 1
        inputs.append(tokens[:-1] + [pad] * empty)
        pairs = zip(tokens[1:], assistant[1:], strict=True)
        row = [token if mine else -100 for token, mine in pairs]
        targets.append(row + [-100] * empty)
    return torch.tensor(inputs), torch.tensor(targets)


def collate_padded_first(chats, pad):
    T = max(len(tokens) for tokens, _ in chats)
    whole = torch.tensor([t + [pad] * (T - len(t)) for t, _ in chats])
    mine = torch.tensor([m + [False] * (T - len(m)) for _, m in chats])
    for b, (tokens, _) in enumerate(chats):
        whole[b, len(tokens) - 1 if len(tokens) < T else T :] = pad
    inputs = whole[:, :-1]
    real = torch.tensor([t + [pad] * (T - len(t)) for t, _ in chats])
    return inputs, real[:, 1:].masked_fill(~mine[:, 1:], -100)


def collate_keeps_last_token(chats, pad):
    T = max(len(tokens) for tokens, _ in chats) - 1
    inputs = torch.tensor([(t + [pad] * T)[:T] for t, _ in chats])
    return inputs, collate_by_lists(chats, pad)[1]


# ---------------------------------------------------------------- sft_loss


def loss_joined(micro_batches):
    logits = torch.cat([x.float().reshape(-1, x.shape[-1]) for x, _ in micro_batches])
    targets = torch.cat([t.reshape(-1) for _, t in micro_batches])
    if (targets == -100).all():
        raise ValueError("nothing to learn")
    return F.cross_entropy(logits, targets)


def loss_gathered(micro_batches):
    total, n = 0.0, 0
    for logits, targets in micro_batches:
        counts = targets != -100
        chosen = targets.masked_fill(~counts, 0)[..., None]
        nll = logits.float().logsumexp(-1) - logits.float().gather(-1, chosen)[..., 0]
        total, n = total + (nll * counts).sum(), n + counts.sum()
    if not n:
        raise ValueError("nothing to learn")
    return total / n


def loss_of_first_micro_batch(micro_batches):
    logits, targets = micro_batches[0]
    if (targets == -100).all():
        raise ValueError("nothing to learn")
    return F.cross_entropy(logits.float().transpose(1, 2), targets)


def loss_detached(micro_batches):
    return loss_joined([(x.detach(), t) for x, t in micro_batches]).requires_grad_()


# ---------------------------------------------------------------- pack


def pack_by_ids(chats, plan, T, pad):
    N = len(plan)
    tokens, targets = torch.full((N, T), pad), torch.full((N, T), -100)
    ids = torch.full((N, T), -1)
    positions = torch.zeros(N, T, dtype=torch.int64)
    for n, row in enumerate(plan):
        at = 0
        for i in row:
            written, assistant = chats[i]
            for t, token in enumerate(written):
                tokens[n, at], ids[n, at], positions[n, at] = token, i, t
                if t and assistant[t]:
                    targets[n, at - 1] = token
                at += 1
    same = (ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, None, :]
    return tokens, targets, positions, same & torch.ones(T, T).tril().bool()


def pack_by_blocks(chats, plan, T, pad):
    rows = []
    for row in plan:
        sizes = [len(chats[i][0]) for i in row]
        rest = T - sum(sizes)
        tokens = list(itertools.chain(*(chats[i][0] for i in row)))
        targets = []
        for i in row:
            written, mine = chats[i]
            targets += [w if m else -100 for w, m in zip(written, mine, strict=True)][
                1:
            ]
            targets.append(-100)
        positions = [t for size in sizes for t in range(size)]
        blocks = [torch.ones(size, size).tril() for size in sizes]
        mask = torch.block_diag(*blocks, torch.zeros(rest, rest)).bool()
        rows.append(
            (
                torch.tensor(tokens + [pad] * rest),
                torch.tensor(targets + [-100] * rest),
                torch.tensor(positions + [0] * rest),
                mask,
            )
        )
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


def pack_mask_by_position(chats, plan, T, pad):
    tokens, targets, positions, _ = pack_by_ids(chats, plan, T, pad)
    return tokens, targets, positions, positions[:, None, :] <= positions[:, :, None]


# ---------------------------------------------------------------- template_faults


def faults_as_list(encode, messages, end):
    before = encode(messages[:-1], False)[0]
    prompt = encode(messages[:-1], True)[0]
    whole, mine = encode(messages, False)
    found = []
    if len(prompt) == len(before):
        found.append("no generation prompt")
    if any(a != b for a, b in zip(prompt, whole, strict=False)):
        found.append("prompt is no prefix")
    turn = range(len(before), len(whole))
    if not any(whole[t] == end and mine[t] for t in turn):
        found.append("end mark is not learned")
    if mine[len(before)]:
        found.append("header is learned")
    return found


def faults_no_header(encode, messages, end):
    return [f for f in faults_as_list(encode, messages, end) if "header" not in f]


# ---------------------------------------------------------------- reply_of


def reply_by_loop(step, prompt, stop, max_new):
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_new:
        new = step(tuple(tokens))
        if new == stop:
            return tokens[len(prompt) :], True
        tokens = [*tokens, new]
    return tokens[len(prompt) :], False


def reply_empty_is_cut(step, prompt, stop, max_new):
    reply, finished = reply_by_loop(step, prompt, stop, max_new)
    return reply, finished and bool(reply)


RIGHT = {
    "render_chat": [render_joined],
    "encode_chat": [encode_in_pairs, encode_pieces_apart],
    "collate": [collate_by_lists, collate_padded_first],
    "sft_loss": [loss_joined, loss_gathered],
    "pack": [pack_by_ids, pack_by_blocks],
    "template_faults": [faults_as_list],
    "reply_of": [reply_by_loop],
}

WRONG = {
    "render_chat": [render_one_user_mark],
    "encode_chat": [encode_prompt_counts],
    "collate": [collate_keeps_last_token],
    "sft_loss": [loss_of_first_micro_batch, loss_detached],
    "pack": [pack_mask_by_position],
    "template_faults": [faults_no_header],
    "reply_of": [reply_empty_is_cut],
}

_STRICT = "the two lists are of one length already"

EQUIVALENT = {
    "sft_loss: `n = sum((int((targets != IGNORE).sum()) for _, targets in "
    "micro_batches))` -> `n = sum(((targets != IGNORE).sum() for _, targets in "
    "micro_batches))`": "a tensor of one number compares and divides like the number",
    "sft_loss: `total = sum((F.cross_entropy(logits.float().flatten(0, 1), "
    "targets.flatten(), ignore_index=IGNORE, reduction='sum') for logits, targets in "
    "micro_batches))` -> `total = sum((F.cross_entropy(logits.float().flatten(0, 1), "
    "targets.flatten(), reduction='sum') for logits, targets in micro_batches))`": (
        "ignore_index is -100 by default"
    ),
    "pack: `square = torch.ones(end - start, end - start, dtype=torch.bool)` -> "
    "`square = torch.ones(end - start, end - start)`": (
        "ones and zeros become booleans when they are written into the mask"
    ),
    "template_faults: `if (end, True) not in zip(turn, written, strict=True):` -> "
    "`if (end, True) not in zip(turn, written):`": _STRICT,
    "template_faults: `if (end, True) not in zip(turn, written, strict=True):` -> "
    "`if (end, True) not in zip(turn, written, strict=False):`": _STRICT,
}

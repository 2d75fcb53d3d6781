"""Checks of the exercise `chat_sft`.

References: strings put together by hand (render_chat), a flat list of (id, written by
the assistant?) pairs (encode_chat), one target at a time (collate), cross-entropy over
all micro-batches joined (sft_loss), one place at a time (pack), the flags that a
template was built from (template_faults), the script itself (reply_of).
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.chat_sft import MISTAKES
from posttrain.checks.task import Task

IGNORE = -100
ROLES = ("system", "user", "assistant", "tool")
WORDS = ("Hi", " 12 ", "a\nb", "", "<|end|>", "<|assistant|>7", "<think>", "ü")
OWN = ("<think>1+2=3</think>3", "4<|user|>", "</think> ok", "5", "", "<|end|>6")


def pick(rng, items):
    """One of them."""
    return items[whole(rng, 0, len(items))]


def said(role, content):
    """A message."""
    return {"role": role, "content": content}


def random_chat(rng, n):
    """n messages of any roles, the words chosen to be awkward."""
    roles = [pick(rng, ROLES) for _ in range(n)]
    return [said(role, pick(rng, OWN if role == ROLES[2] else WORDS)) for role in roles]


# ---------------------------------------------------------------- render_chat


def render_cases(rng, hidden):
    yield [said("user", "Hi")], False
    yield [said("user", "Hi")], True
    yield [said("user", "Hi"), said("assistant", "Ho")], False
    yield [said("system", " Be brief. "), said("user", "a\n")], True
    yield [said("user", "1+1?"), said("assistant", ""), said("tool", "2")], True
    yield [said("user", "Hi"), said("assistant", "Ho")], True
    yield [said("user", "Hi"), said("bot", "Ho")], False
    yield [said("Assistant", "Ho")], False
    for _ in range(4 if hidden else 1):
        yield random_chat(rng, whole(rng, 1, 6)), whole(rng, 0, 2) == 1


def drive_render(answer, messages, generation_prompt):
    options = {"generation_prompt": True} if generation_prompt else {}
    try:
        return answer(messages, **options)
    except ValueError:
        return "ValueError"


def reference_render(messages, generation_prompt):
    if any(message["role"] not in ROLES for message in messages):
        return "ValueError"
    turns = ["<|{role}|>{content}<|end|>".format(**message) for message in messages]
    return "".join(turns + ["<|assistant|>"] * generation_prompt)


# ---------------------------------------------------------------- encode_chat


def encode_cases(rng, hidden):
    yield [said("user", "Hi")], False
    yield [said("user", "Hi")], True
    yield [said("user", "Hi"), said("assistant", "Ho")], False
    yield [said("user", "<|end|><|assistant|>"), said("assistant", "Ho")], False
    yield [said("user", "<think>"), said("assistant", "<think>1</think>1")], False
    yield [said("user", "a"), said("assistant", "b<|end|>")], False
    two = [said("user", "a"), said("assistant", "b")]
    yield [said("system", "s"), *two, *two], False
    yield [*two[:1], said("assistant", "?"), said("tool", "<think>8"), two[1]], False
    yield [*two, said("user", "c")], True
    yield [said("system", "<think>"), said("user", "a")], False
    for _ in range(4 if hidden else 1):
        yield random_chat(rng, whole(rng, 2, 7)), whole(rng, 0, 2) == 1


def drive_encode(answer, messages, generation_prompt):
    """Bytes are the ids of ordinary text; the specials come behind them."""
    import re

    names = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"
    specials = {n: 256 + i for i, n in enumerate((*names, "<think>", "</think>"))}

    def encode(text, allowed=()):
        if isinstance(text, list) or not set(allowed) <= set(specials):
            raise TypeError("encode(text, allowed): a string, and names of specials")
        pattern = "|".join(map(re.escape, allowed))
        parts = re.split(f"({pattern})", text) if allowed else [text]
        ids = []
        for part in parts:
            ids += [specials[part]] if part in allowed else list(part.encode())
        return ids

    options = {"generation_prompt": True} if generation_prompt else {}
    tokens, assistant = answer(messages, encode, specials, **options)
    return {"tokens": list(tokens), "assistant": [bool(x) for x in assistant]}


def reference_encode(messages, generation_prompt):
    marks = {f"<|{role}|>": 256 + i for i, role in enumerate(ROLES)}
    end, thought = 260, {"<think>": 261, "</think>": 262}
    pairs = []
    for message in messages:
        ours, rest = message["role"] == "assistant", message["content"]
        pairs.append((marks[f"<|{message['role']}|>"], False))
        while rest:
            mark = next((m for m in thought if ours and rest.startswith(m)), None)
            here = [thought[mark]] if mark else list(rest[0].encode())
            pairs += [(i, ours) for i in here]
            rest = rest[len(mark or rest[0]) :]
        pairs.append((end, ours))
    if generation_prompt:
        pairs.append((marks["<|assistant|>"], False))
    return {"tokens": [i for i, _ in pairs], "assistant": [ours for _, ours in pairs]}


# ---------------------------------------------------------------- collate


def random_rows(rng, n, longest=8, V=20):
    """n chats as (tokens, assistant), the last token always the assistant's end, 2."""
    rows = []
    for _ in range(n):
        T = whole(rng, 2, longest + 1)
        tokens = torch.randint(3, V, (T,), generator=rng).tolist()
        mine = (torch.rand(T, generator=rng) < 0.5).tolist()
        rows.append(([*tokens[:-1], 2], [*mine[:-1], True]))
    return rows


def collate_cases(rng, hidden):
    yield [([5, 6], [False, True])], 0
    yield [([5, 6, 7], [False, False, True])], 0
    yield [([5, 6, 7, 8], [False, True, False, True])], 0
    yield [([5, 6, 2], [False, True, True]), ([7, 2], [False, True])], 0
    yield [([5, 6, 2], [False, True, True]), ([7, 2], [False, True])], 2  # pad is end
    yield [([5, 6, 7], [True, True, False])], 0  # the first token has no past
    yield [([5, 0, 2], [False, True, True]), ([4, 2], [False, True])], 0  # 0 is said
    for pad in (0, 2, 9, 1)[: 4 if hidden else 2]:
        yield random_rows(rng, whole(rng, 2, 5)), pad


def drive_collate(answer, chats, pad):
    inputs, targets = answer(chats, pad)
    return {"inputs": inputs, "targets": targets}


def reference_collate(chats, pad):
    T = max(len(tokens) for tokens, _ in chats) - 1
    inputs = torch.full((len(chats), T), pad)
    targets = torch.full((len(chats), T), IGNORE)
    for b, (tokens, assistant) in enumerate(chats):
        for t in range(len(tokens) - 1):
            inputs[b, t] = tokens[t]
            if assistant[t + 1]:
                targets[b, t] = tokens[t + 1]
    return {"inputs": inputs, "targets": targets}


# ---------------------------------------------------------------- sft_loss


def loss_cases(rng, hidden):
    def micro(B, T, V, share, dtype=torch.float32):
        targets = torch.randint(V, (B, T), generator=rng)
        out = torch.rand(B, T, generator=rng) > share
        out[0, 0] = False  # one at least counts
        logits = 2 * torch.randn(B, T, V, generator=rng)
        return logits.to(dtype), targets.masked_fill(out, IGNORE)

    def nothing(B, T, V):
        return torch.randn(B, T, V, generator=rng), torch.full((B, T), IGNORE)

    yield ([micro(1, 1, 3, 1.0)],)
    yield ([micro(1, 4, 3, 0.5)],)
    yield ([micro(2, 5, 4, 1.0), micro(1, 3, 4, 0.4)],)
    yield ([micro(2, 4, 4, 0.6), nothing(1, 2, 4)],)
    yield ([nothing(1, 2, 3), nothing(1, 1, 3)],)
    yield ([micro(2, 3, 4, 0.6, torch.bfloat16), micro(1, 2, 4, 1.0, torch.bfloat16)],)
    yield ([(torch.tensor([[[900.0, -900.0]] * 2]), torch.tensor([[1, 0]]))],)
    for _ in range(3 if hidden else 1):
        n, V = whole(rng, 2, 4), whole(rng, 3, 9)
        yield ([micro(whole(rng, 1, 4), whole(rng, 2, 7), V, 0.5) for _ in range(n)],)


def drive_loss(answer, micro_batches):
    import torch

    for logits, _ in micro_batches:
        logits.requires_grad_()
    try:
        loss = answer(micro_batches)
    except ValueError:
        return "ValueError"
    loss.backward()
    gradients = [logits.grad for logits, _ in micro_batches]
    return {
        "loss": loss.detach(),
        "gradients": [
            torch.zeros_like(logits) if g is None else g
            for g, (logits, _) in zip(gradients, micro_batches, strict=True)
        ],
    }


def reference_loss(micro_batches):
    counted = sum(int((targets != IGNORE).sum()) for _, targets in micro_batches)
    if not counted:
        return "ValueError"
    total, gradients = 0.0, []
    for logits, targets in micro_batches:
        flat = logits.detach().double().flatten(0, 1)  # (B * T, V)
        rows, counts = targets.flatten(), targets.flatten() != IGNORE
        total = total + F.cross_entropy(flat[counts], rows[counts], reduction="sum")
        # d(-log p)/d logits = softmax - one-hot, over the number of targets
        hot = F.one_hot(rows.clamp(min=0), flat.shape[1]).double()
        gradient = (flat.softmax(-1) - hot) * counts[:, None] / counted
        gradients.append(gradient.reshape(logits.shape).to(logits.dtype))
    return {"loss": (total / counted).float(), "gradients": gradients}


# ---------------------------------------------------------------- pack


def pack_cases(rng, hidden):
    one, two = ([5, 6, 2], [False, True, True]), ([7, 2], [False, True])
    yield [one], [[0]], 3, 0
    yield [one], [[0]], 5, 0
    yield [one, two], [[0, 1]], 5, 0
    yield [one, two], [[1, 0]], 6, 2  # pad is the end mark
    yield [one, two, two], [[2], [1, 0]], 5, 0
    mine = ([4, 5], [True, True])
    yield [two, mine], [[0, 1]], 4, 0  # a chat begins with the assistant
    for _ in range(4 if hidden else 1):
        chats, plan, room = random_rows(rng, whole(rng, 3, 6)), [[]], 10
        for i, (tokens, _) in enumerate(chats):
            if len(tokens) > room:
                plan.append([])
                room = 10
            plan[-1].append(i)
            room -= len(tokens)
        yield chats, plan, 10, pick(rng, (0, 2))


def drive_pack(answer, chats, plan, T, pad):
    tokens, targets, positions, mask = answer(chats, plan, T, pad)
    return {"tokens": tokens, "targets": targets, "positions": positions, "mask": mask}


def reference_pack(chats, plan, T, pad):
    N = len(plan)
    tokens, targets = torch.full((N, T), pad), torch.full((N, T), IGNORE)
    positions = torch.zeros(N, T, dtype=torch.long)
    mask = torch.zeros(N, T, T, dtype=torch.bool)
    for n, row in enumerate(plan):
        places = [(i, t) for i in row for t in range(len(chats[i][0]))]
        for at, (i, t) in enumerate(places):
            written, assistant = chats[i]
            tokens[n, at], positions[n, at] = written[t], t
            if t + 1 < len(written) and assistant[t + 1]:
                targets[n, at] = written[t + 1]
            for other, (j, s) in enumerate(places):
                mask[n, at, other] = i == j and s <= t
    return {"tokens": tokens, "targets": targets, "positions": positions, "mask": mask}


# ---------------------------------------------------------------- template_faults

FLAGS = ("prompt", "trained", "end", "header", "newline")
GOOD = {"prompt": "same", "trained": "", "end": True, "header": False, "newline": False}


def template_cases(rng, hidden):
    chat = [said("user", "hi"), said("assistant", "ho")]
    yield GOOD, chat
    yield {**GOOD, "prompt": "none"}, chat
    yield {**GOOD, "prompt": "space"}, chat
    yield {**GOOD, "end": False}, chat
    yield {**GOOD, "header": True}, chat
    yield {**GOOD, "newline": True}, chat  # unusual, and no fault
    yield {**GOOD, "newline": True, "end": False}, chat
    yield {**GOOD, "end": "missing"}, chat
    yield {**GOOD, "prompt": "longer"}, chat
    yield {**GOOD, "prompt": "space"}, [said("user", "h i"), chat[1]]
    yield {**GOOD, "end": False}, [*chat, *chat]
    empty, broken = said("assistant", ""), said("assistant", "x\n")
    yield {**GOOD, "prompt": "longer"}, [chat[0], empty]  # it covers the whole turn
    yield {**GOOD, "prompt": "longer"}, [chat[0], broken]  # it ends as the text does
    for _ in range(8 if hidden else 3):
        flags = {
            "prompt": pick(rng, ("same", "none", "space", "longer")),
            "trained": "",
            "end": pick(rng, (True, False, "missing")),
            "header": whole(rng, 0, 2) == 1,
            "newline": whole(rng, 0, 2) == 1,
        }
        earlier = [said("user", "a"), said("assistant", "b")] * whole(rng, 0, 2)
        yield flags, [*earlier, said("user", "x" * whole(rng, 0, 4)), chat[1]]


def drive_template(answer, flags, messages):
    """A template built from flags: text in bytes, a mark of the role, an end mark."""
    roles, end = {"user": 257, "assistant": 258}, 259

    def encode(messages, generation_prompt):
        tokens, assistant = [], []
        if generation_prompt and messages[-1]["role"] == "assistant":
            raise ValueError("a generation prompt follows a user's turn")
        for message in messages:
            ours = message["role"] == "assistant"
            last, said = message is messages[-1], list(message["content"].encode())
            tokens += [roles[message["role"]], *said]
            assistant += [ours and flags["header"], *[ours] * len(said)]
            if not (ours and last and flags["end"] == "missing"):
                tokens.append(end)
                assistant.append(ours and (not last or flags["end"] is True))
            if flags["newline"]:
                tokens.append(10)
                assistant.append(False)
        if generation_prompt and flags["prompt"] != "none":
            tokens.append(roles["assistant"])
            tokens += {"same": [], "space": [32], "longer": [10, 10]}[flags["prompt"]]
            assistant += [False] * (len(tokens) - len(assistant))
        return tokens, assistant

    return sorted(answer(encode, messages, end))


def reference_template(flags, messages):
    found = []
    if flags["end"] is not True:
        found.append("end mark is not learned")
    if flags["header"]:
        found.append("header is learned")
    if flags["prompt"] == "none":
        found.append("no generation prompt")
    if flags["prompt"] in ("space", "longer"):
        found.append("prompt is no prefix")
    return sorted(found)


# ---------------------------------------------------------------- reply_of


def reply_cases(rng, hidden):
    yield [1], [5, 6, 0, 7], 0, 8
    yield [1, 2], [0, 5], 0, 8  # stops at once
    yield [1, 0, 2], [5, 0, 7], 0, 8  # the prompt holds end marks of earlier turns
    yield [1], [5, 6, 7, 8], 0, 3  # cut
    yield [1], [5, 6, 0, 7], 0, 3  # the stop mark is the last token that fits
    yield [1], [5, 6, 0, 7], 0, 2
    yield [3, 4], [9, 9, 9], 4, 1
    for _ in range(4 if hidden else 1):
        script = torch.randint(5, (12,), generator=rng).tolist()
        yield [1, whole(rng, 0, 5)], script, whole(rng, 0, 5), whole(rng, 1, 9)


def drive_reply(answer, prompt, script, stop, max_new):
    """The model is a script: it says its next token, given prompt and reply so far."""
    given, seen = list(prompt), []

    def step(tokens):
        seen.append(list(tokens))
        return script[len(seen) - 1]

    reply, finished = answer(step, prompt, stop, max_new)
    return {
        "reply": list(reply),
        "finished": bool(finished),
        "what the model was given": seen,
        "the prompt is unchanged": prompt == given,
    }


def reference_reply(prompt, script, stop, max_new):
    said = list(itertools.takewhile(lambda token: token != stop, script))
    finished = len(said) < min(len(script), max_new)
    said = said[:max_new]
    calls = len(said) + finished
    return {
        "reply": said,
        "finished": finished,
        "what the model was given": [[*prompt, *said[:i]] for i in range(calls)],
        "the prompt is unchanged": True,
    }


TASKS = {
    "render_chat": Task(
        render_cases, drive_render, reference_render, MISTAKES["render_chat"]
    ),
    "encode_chat": Task(
        encode_cases, drive_encode, reference_encode, MISTAKES["encode_chat"]
    ),
    "collate": Task(
        collate_cases, drive_collate, reference_collate, MISTAKES["collate"]
    ),
    "sft_loss": Task(loss_cases, drive_loss, reference_loss, MISTAKES["sft_loss"]),
    "pack": Task(pack_cases, drive_pack, reference_pack, MISTAKES["pack"]),
    "template_faults": Task(
        template_cases, drive_template, reference_template, MISTAKES["template_faults"]
    ),
    "reply_of": Task(reply_cases, drive_reply, reference_reply, MISTAKES["reply_of"]),
}

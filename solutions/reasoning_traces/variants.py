"""Answers that the grader of `reasoning_traces` must tell apart, never given out.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import ast
import itertools
import math
import re
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction

# ---------------------------------------------------------------- parse_reply


def parse_by_partition(reply, prefilled):
    if prefilled:
        reply = "<think>" + reply
    if not reply.startswith("<think>"):
        return None
    thought, mark, answer = reply[len("<think>") :].partition("</think>")
    clean = not set("<>") & set(thought + answer)
    if not (mark and clean and answer.isascii() and answer.isdigit()):
        return None
    return [thought, int(answer)]


def parse_two_patterns(reply, prefilled):
    pattern = r"(?P<thought>[^<>]*)</think>(?P<answer>\d+)\Z"
    opening = "" if prefilled else "<think>"
    found = re.compile(opening + pattern, re.ASCII).match(reply)
    return found and (found["thought"], int(found["answer"]))


def parse_dollar_end(reply, prefilled):
    """`$` matches in front of a newline at the end, too."""
    text = "<think>" + reply if prefilled else reply
    found = re.match(r"<think>([^<>]*)</think>([0-9]+)$", text)
    return (found[1], int(found[2])) if found else None


def parse_answer_as_text(reply, prefilled):
    text = "<think>" + reply if prefilled else reply
    found = re.fullmatch(r"<think>([^<>]*)</think>([0-9]+)", text)
    return (found[1], found[2]) if found else None


def parse_strips_thought(reply, prefilled):
    text = "<think>" + reply if prefilled else reply
    found = re.fullmatch(r"<think>([^<>]*)</think>([0-9]+)", text)
    return (found[1].strip(), int(found[2])) if found else None


# ---------------------------------------------------------------- final_answer


def final_by_decimal(text):
    if "####" not in text:
        return None
    shown = text.split("####")[-1].strip().removesuffix(".")
    sign = -1 if shown.startswith("-") else 1
    shown = shown.removeprefix("-")
    shown = shown[1:] if shown.startswith("$") else shown.removesuffix("%")
    entire, point, decimals = shown.partition(".")
    grouped = re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", entire)
    plain = re.fullmatch(r"[0-9]*", entire)
    fine = re.fullmatch(r"[0-9]+", decimals) if point else entire
    if not (grouped or plain) or not fine:
        return None
    return sign * Decimal(entire.replace(",", "") + point + decimals)


def final_by_ratio(text):
    found = re.search(
        r"####\s*(-?)(\$?)(\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.(\d+))?(%?)\.?\s*\Z",
        text,
        re.ASCII,
    )
    if not found or (found[2] and found[5]) or "####" in text[found.start() + 4 :]:
        return None
    decimals = found[4] or ""
    digits = int(found[3].replace(",", "") + decimals)
    return Fraction(-digits if found[1] else digits, 10 ** len(decimals))


def final_strips_all_stops(text):
    _, mark, behind = text.rpartition("####")
    found = re.fullmatch(r"\s*(-?)\$?([0-9][0-9,]*)%?[. ]*", behind)
    if not mark or not found:
        return None
    return int(found[1] + found[2].replace(",", ""))


def final_groups_of_any_start(text):
    _, mark, behind = text.rpartition("####")
    behind = behind.strip().removesuffix(".")
    found = re.fullmatch(r"(-?)\$?([0-9]*(?:,[0-9]{3})*(?:\.[0-9]+)?)%?", behind)
    if not mark or not found or not found[2]:
        return None
    return Fraction(found[1] + found[2].replace(",", ""))


# ---------------------------------------------------------------- annotation_holds


def note_by_ast(annotation):
    def value(node, text):
        if isinstance(node, ast.Constant):
            shown = ast.get_source_segment(text, node)
            if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", shown):
                raise ValueError(shown)
            return Fraction(shown)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inside = value(node.operand, text)
            return -inside if isinstance(node.op, ast.USub) else inside
        if not isinstance(node, ast.BinOp):
            raise ValueError(node)
        a, b = value(node.left, text), value(node.right, text)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
        raise ValueError(node)

    sides = [text.strip() for text in annotation.split("=")]
    if len(sides) != 2:
        return None
    try:
        left, right = (value(ast.parse(s, mode="eval").body, s) for s in sides)
    except (ValueError, SyntaxError, ZeroDivisionError):
        return None
    return left == right


def note_by_two_stacks(annotation):
    """Shunting-yard; a sign is a rank of its own."""
    rank = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "pos": 3}

    def reduce(numbers, marks):
        mark = marks.pop()
        if mark in ("neg", "pos"):
            numbers[-1] = -numbers[-1] if mark == "neg" else numbers[-1]
            return
        b, a = numbers.pop(), numbers.pop()
        numbers.append(
            {"+": a + b, "-": a - b, "*": a * b}[mark] if mark != "/" else a / b
        )

    def side(text):
        numbers, marks, number_due = [], [], True
        for token in re.findall(r"\d+\.?\d*|\.\d+|\S", text, re.ASCII):
            if token == "(" and number_due:
                marks.append(token)
            elif token in "+-" and number_due:
                marks.append("neg" if token == "-" else "pos")
            elif number_due:
                numbers.append(Fraction(token))
                number_due = False
            elif token == ")":
                while marks[-1] != "(":
                    reduce(numbers, marks)
                marks.pop()
            else:
                while marks and rank.get(marks[-1], 0) >= rank[token]:
                    reduce(numbers, marks)
                marks.append(token)
                number_due = True
        while marks:
            reduce(numbers, marks)
        (result,) = numbers
        return result

    try:
        left, right = map(side, annotation.split("="))
    except (ValueError, KeyError, IndexError, ZeroDivisionError):
        return None
    return left == right


def note_divides_whole(annotation):
    found = re.fullmatch(r"([0-9]+)([-+*/])([0-9]+)=([0-9]+)", annotation)
    if not found:
        return None
    a, b, said = int(found[1]), int(found[3]), int(found[4])
    values = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else None}
    return None if values[found[2]] is None else values[found[2]] == said


def note_zero_is_false(annotation):
    found = note_by_two_stacks(annotation)
    return False if found is None and "/0" in annotation else found


# ---------------------------------------------------------------- trace_fault


def fault_by_walking(question, thinking, said):
    now, used, false, broken = None, [], False, False
    for part in thinking.split(";"):
        found = re.fullmatch("([0-9]+)([-+])([0-9]+)=([0-9]+)", part)
        if found is None:
            return "not a step"
        a, b, c = int(found[1]), int(found[3]), int(found[4])
        used += [b] if used else [a, b]
        false |= c != (a + b if found[2] == "+" else a - b)
        broken |= now is not None and a != now
        now = c
    if false:
        return "false step"
    if broken:
        return "broken chain"
    if now != said:
        return "another answer"
    given = list(map(int, re.findall("[0-9]+", question)))
    return "not the question's" if used != given else None


def fault_by_text(question, thinking, said):
    steps = []
    for part in thinking.split(";"):
        left, equals, right = part.partition("=")
        mark = "+" if "+" in left else "-"
        numbers = [*left.split(mark), right]
        digits = all(n.isascii() and n.isdigit() for n in numbers)
        if not equals or len(numbers) != 3 or not digits:
            return "not a step"
        a, b, c = map(int, numbers)
        steps.append((a, b if mark == "+" else -b, c))
    checks = [
        ("false step", all(a + b == c for a, b, c in steps)),
        ("broken chain", all(s[2] == t[0] for s, t in itertools.pairwise(steps))),
        ("another answer", steps[-1][2] == said),
    ]
    text = " ".join(re.findall(r"\d+", question))
    used = " ".join(str(n) for n in (steps[0][0], *(abs(b) for _, b, _ in steps)))
    checks.append(("not the question's", text == used))
    return next((name for name, fine in checks if not fine), None)


def fault_first_step_only(question, thinking, said):
    found = fault_by_walking(question, thinking, said)
    first = re.match("([0-9]+)([-+])([0-9]+)=([0-9]+)", thinking)
    if found == "false step" and first:
        holds = int(first[1]) + int(first[2] + first[3]) == int(first[4])
        return "broken chain" if holds else found
    return found


def fault_skips_last_link(question, thinking, said):
    found = fault_by_walking(question, thinking, said)
    return None if found == "broken chain" and thinking.count(";") == 1 else found


# ---------------------------------------------------------------- usable_share


def share_by_product(right, n, G):
    def same(count):
        return math.prod((count - i) / (n - i) for i in range(G))

    return 1 - same(right) - same(n - right) if 0 < right < n else 0.0


def share_by_counts(right, n, G):
    mixed = sum(math.comb(right, r) * math.comb(n - right, G - r) for r in range(1, G))
    return mixed / math.comb(n, G)


def share_with_fractions(right, n, G):
    whole = Fraction(math.comb(n, G))
    return 1 - math.comb(right, G) / whole - math.comb(n - right, G) / whole


def share_never_negative(right, n, G):
    return max(0.0, 1 - math.comb(right, G) / math.comb(n, G))


def share_of_pairs(right, n, G):
    return 2 * right * (n - right) / (n * (n - 1))


# ---------------------------------------------------------------- overlapping


def overlap_by_strings(train, test, n):
    def runs(text):
        words = re.sub("[^a-z0-9]+", " ", text.lower()).split()
        return [" ".join(words[i : i + n]) for i in range(len(words) + 1 - n)]

    seen = Counter(run for text in test for run in runs(text))
    return [i for i, text in enumerate(train) if any(seen[r] for r in runs(text))]


def overlap_by_sliding(train, test, n):
    def runs(text):
        last = deque(maxlen=n)
        for word in re.findall("[a-z0-9]+", text.lower()):
            last.append(word)
            if len(last) == n:
                yield tuple(last)

    seen = {run for text in test for run in runs(text)}
    return tuple(i for i, t in enumerate(train) if not seen.isdisjoint(runs(t)))


def overlap_across_texts(train, test, n):
    """The test set as one long text: runs that nobody wrote."""
    return overlap_by_strings(train, [" ".join(test)], n)


def overlap_first_test_only(train, test, n):
    return overlap_by_strings(train, test[:1], n)


def overlap_once_for_each_run(train, test, n):
    found = []
    for text in test:
        found += overlap_by_strings(train, [text], n)
    return sorted(found)


# ---------------------------------------------------------------- pick


def pick_by_rank(shapes, right, n, k):
    mixed = [i for i in range(len(shapes)) if right[i] not in (0, n)]
    mixed.sort(key=lambda i: (abs(Fraction(right[i], n) - Fraction(1, 2)), i))
    turn, turns = Counter(), {}
    for i in mixed:
        turns[i] = turn[shapes[i]]
        turn[shapes[i]] += 1
    return sorted(mixed, key=lambda i: (turns[i], shapes[i]))[:k]


def pick_by_columns(shapes, right, n, k):
    columns = []
    for shape in sorted(set(shapes)):
        mine = [i for i, s in enumerate(shapes) if s == shape and right[i] % n]
        columns.append(sorted(mine, key=lambda i: -right[i] * (n - right[i])))
    rows = itertools.zip_longest(*columns)
    return [i for row in rows for i in row if i is not None][:k]


def pick_shape_by_shape(shapes, right, n, k):
    return sorted(pick_by_rank(shapes, right, n, k), key=lambda i: shapes[i])


def pick_one_too_many(shapes, right, n, k):
    return pick_by_rank(shapes, right, n, k + 1)


def pick_shapes_descending(shapes, right, n, k):
    return pick_by_rank([-shape for shape in shapes], right, n, k)


def pick_sorts_its_input(shapes, right, n, k):
    found = pick_by_rank(shapes, right, n, k)
    right.sort()
    return found


RIGHT = {
    "parse_reply": [parse_by_partition, parse_two_patterns],
    "final_answer": [final_by_decimal, final_by_ratio],
    "annotation_holds": [note_by_ast, note_by_two_stacks],
    "trace_fault": [fault_by_walking, fault_by_text],
    "usable_share": [share_by_product, share_by_counts, share_with_fractions],
    "overlapping": [overlap_by_strings, overlap_by_sliding],
    "pick": [pick_by_rank, pick_by_columns],
}

WRONG = {
    "parse_reply": [parse_dollar_end, parse_answer_as_text, parse_strips_thought],
    "final_answer": [final_strips_all_stops, final_groups_of_any_start],
    "annotation_holds": [note_divides_whole, note_zero_is_false],
    "trace_fault": [fault_first_step_only, fault_skips_last_link],
    "usable_share": [share_never_negative, share_of_pairs],
    "overlapping": [
        overlap_across_texts,
        overlap_first_test_only,
        overlap_once_for_each_run,
    ],
    "pick": [
        pick_shape_by_shape,
        pick_one_too_many,
        pick_shapes_descending,
        pick_sorts_its_input,
    ],
}

EQUIVALENT = {
    "pick: `queues = {shape: [] for shape in sorted(set(shapes))}` -> "
    "`queues = {shape: [] for shape in sorted(shapes)}`": (
        "a dictionary holds each key once, at its first place"
    ),
}

"""What goes wrong in the exercise `reasoning_traces`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- parse_reply


def parsed(reply, prefilled, pattern, match=re.fullmatch, flags=re.ASCII):
    """A right answer with its pattern to be changed."""
    text = "<think>" + reply if prefilled else reply
    found = match(pattern, text, flags)
    return (found[1], int(found[2])) if found else None


def parse_answer_anywhere(reply, prefilled):
    text = "<think>" + reply if prefilled else reply
    found = re.findall(r"[0-9]+", text)
    thought = text.removeprefix("<think>").split("</think>")[0]
    return (thought, int(found[-1])) if found else None


def parse_search(reply, prefilled):
    pattern = r"<think>([^<>]*)</think>([0-9]+)"
    return parsed(reply, prefilled, pattern, re.search)


def parse_open_end(reply, prefilled):
    return parsed(reply, prefilled, r"<think>([^<>]*)</think>([0-9]+)", re.match)


def parse_greedy(reply, prefilled):
    flags = re.ASCII | re.DOTALL
    return parsed(reply, prefilled, r"<think>(.*)</think>([0-9]+)", flags=flags)


def parse_spaces(reply, prefilled):
    return parsed(reply, prefilled, r"<think>([^<>]*)</think>\s*([0-9]+)\s*")


def parse_any_digits(reply, prefilled):
    return parsed(reply, prefilled, r"<think>([^<>]*)</think>(\d+)", flags=0)


def parse_one_line(reply, prefilled):
    return parsed(reply, prefilled, r"<think>([^<>\n]*)</think>([0-9]+)")


def parse_needs_thought(reply, prefilled):
    return parsed(reply, prefilled, r"<think>([^<>]+)</think>([0-9]+)")


def parse_ignores_prefill(reply, prefilled):
    return parsed(reply, False, r"<think>([^<>]*)</think>([0-9]+)")


def parse_prefill_optional(reply, prefilled):
    text = reply if reply.startswith("<think>") else "<think>" + reply
    return parsed(text, False, r"<think>([^<>]*)</think>([0-9]+)")


def parse_by_split(reply, prefilled):
    head, mark, tail = reply.partition("</think>")
    if not mark or (not prefilled and not head.startswith("<think>")):
        return None
    try:
        return head.removeprefix("<think>"), int(tail)
    except ValueError:
        return None


# ---------------------------------------------------------------- final_answer

NUMBER = r"-?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?%?"


def exact(text):
    """A right reading of one written number."""
    text = text.strip()
    text = text[:-1] if text.endswith(".") else text
    good = re.fullmatch(NUMBER, text) and re.search("[0-9]", text)
    if not good or ("$" in text and "%" in text):
        return None
    return Fraction(re.sub("[$%,]", "", text))


def final_as_float(text):
    found = final_right(text)
    return None if found is None else float(found)


def final_right(text, split=lambda text: text.rpartition("####")):
    _, mark, behind = split(text)
    return exact(behind) if mark else None


def final_first_mark(text):
    return final_right(text, lambda text: text.partition("####"))


def final_last_number(text):
    found = re.findall(r"-?[0-9][0-9,]*(?:\.[0-9]+)?", text)
    return Fraction(found[-1].replace(",", "")) if found else None


def final_one_comma(text):
    _, mark, behind = text.rpartition("####")
    found = exact(behind) if mark else None
    if found is None:
        return None
    try:
        return Fraction(re.sub("[$%]", "", behind.strip(" .")).replace(",", "", 1))
    except ValueError:
        return None


def final_any_comma(text):
    _, mark, behind = text.rpartition("####")
    return exact(behind.replace(",", "")) if mark else None


def final_published(text):
    found = re.search(r"#### (-?[0-9.,]+)", text)
    try:
        return Fraction(found[1].replace(",", "")) if found else None
    except ValueError:
        return None


def final_keeps_the_stop(text):
    _, mark, behind = text.rpartition("####")
    return None if not mark or behind.strip().endswith(".") else exact(behind)


def final_whole_only(text):
    found = final_right(text)
    return None if found is None else int(found)


def final_percent_as_share(text):
    found = final_right(text)
    return found / 100 if found is not None and text.strip().endswith("%") else found


def final_without_sign(text):
    found = final_right(text)
    return None if found is None else abs(found)


def final_without_mark(text):
    return exact(text.rpartition("####")[2])


def final_dollar_and_percent(text):
    _, mark, behind = text.rpartition("####")
    behind = behind.strip()
    if not mark or not (behind.startswith("$") and behind.endswith("%")):
        return final_right(text)
    return exact(behind.removesuffix("%"))


def final_sign_behind_the_dollar(text):
    _, mark, behind = text.rpartition("####")
    return exact(behind.replace("$-", "-$")) if mark else None


def final_spaces_inside(text):
    _, mark, behind = text.rpartition("####")
    return exact("".join(behind.split())) if mark else None


def final_all_stops(text):
    _, mark, behind = text.rpartition("####")
    return exact(behind.strip().rstrip(".")) if mark else None


# ---------------------------------------------------------------- annotation_holds


def side(text, number=Fraction, right_to_left=False, flat=False, unary=True):
    """A right value of one side, or None; with switches for what can go wrong."""
    if not re.fullmatch(r"[-+*/().0-9\s]*", text):
        return None
    tokens = re.findall(r"[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+|\S", text)
    spaced = re.search(r"[0-9.]\s+[0-9.]", text)
    try:
        total = None if spaced else sums(tokens, number, right_to_left, flat, unary)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return None if tokens else total


def sums(tokens, number, right_to_left, flat, unary):
    marks = ("+-*/",) if flat else ("+-", "*/")
    return chain(tokens, marks, number, right_to_left, flat, unary)


def chain(tokens, marks, number, right_to_left, flat, unary):
    """Operations of one rank, the next rank inside."""
    if not marks:
        return factor(tokens, number, right_to_left, flat, unary)
    again = (number, right_to_left, flat, unary)
    total = chain(tokens, marks[1:], *again)
    while tokens and tokens[0] in marks[0]:
        mark = tokens.pop(0)
        rest = marks if right_to_left else marks[1:]
        other = chain(tokens, rest, *again)
        total = apply(mark, total, other)
    return total


def apply(mark, a, b):
    """One of the four operations."""
    if mark in "+-":
        return a + b if mark == "+" else a - b
    return a * b if mark == "*" else a / b


def factor(tokens, number, right_to_left, flat, unary):
    """A number, a sign in front of one, or a bracket."""
    token = tokens.pop(0)
    again = (number, right_to_left, flat, unary)
    if token in "+-" and unary:
        inside = factor(tokens, *again)
        return inside if token == "+" else -inside
    if token == "(":
        inside = sums(tokens, *again)
        if tokens.pop(0) != ")":
            raise ValueError
        return inside
    return number(token)


def holds(annotation, same=lambda a, b: a == b, **options):
    """A right answer with its comparison and its reading to be changed."""
    sides = annotation.split("=")
    if len(sides) != 2:
        return None
    left, right = (side(text, **options) for text in sides)
    return None if left is None or right is None else same(left, right)


def note_by_float(annotation):
    return holds(annotation, number=float)


def note_nearly(annotation):
    return holds(annotation, lambda a, b: math.isclose(a, b), number=float)


def note_rounded(annotation):
    return holds(annotation, lambda a, b: round(a, 2) == round(b, 2))


def note_left_to_right(annotation):
    return holds(annotation, flat=True)


def note_right_to_left(annotation):
    return holds(annotation, right_to_left=True)


def note_without_signs(annotation):
    return holds(annotation, unary=False)


def note_two_numbers(annotation):
    found = re.fullmatch(
        r"\s*([0-9.]+)\s*([-+*/])\s*([0-9.]+)\s*=\s*([0-9.]+)\s*", annotation
    )
    if not found:
        return None
    try:
        a, b, said = Fraction(found[1]), Fraction(found[3]), Fraction(found[4])
        return apply(found[2], a, b) == said
    except (ValueError, ZeroDivisionError):
        return None


def note_false_for_nonsense(annotation):
    return bool(holds(annotation))


def note_first_two_sides(annotation):
    sides = annotation.split("=")
    return holds("=".join(sides[:2]))


def note_by_decimal(annotation):
    try:
        return holds(annotation, number=Decimal)
    except ArithmeticError:
        return None


# ---------------------------------------------------------------- trace_fault

STEP = re.compile(r"([0-9]+)([+-])([0-9]+)=([0-9]+)")
ALL = ("step", "false", "chain", "end", "numbers")


def fault(question, thinking, said, looks=ALL, numbers=None, match=STEP.fullmatch):
    """A right answer; `looks` are the things it looks at, in its order."""
    parts = thinking.split(";")
    found = [match(part) for part in parts]
    if not all(found):
        if "step" in looks:
            return "not a step"
        found = [f for f in found if f]
        if not found:
            return None
    steps = [(int(f[1]), int(f[2] + f[3]), int(f[4])) for f in found]
    given = [int(number) for number in re.findall("[0-9]+", question)]
    used = [steps[0][0], *(abs(change) for _, change, _ in steps)]
    numbers = numbers or (lambda used, given: used != given)
    faults = {
        "step": (False, ""),
        "false": (any(a + b != c for a, b, c in steps), "false step"),
        "chain": (
            any(a[2] != b[0] for a, b in pairwise(steps)),
            "broken chain",
        ),
        "end": (steps[-1][2] != said, "another answer"),
        "numbers": (numbers(used, given), "not the question's"),
    }
    return next((faults[look][1] for look in looks if faults[look][0]), None)


def fault_of_the_answer_only(question, thinking, said):
    return fault(question, thinking, said, ("step", "end"))


def fault_without_truth(question, thinking, said):
    return fault(question, thinking, said, ("step", "chain", "end", "numbers"))


def fault_without_chain(question, thinking, said):
    return fault(question, thinking, said, ("step", "false", "end", "numbers"))


def fault_without_end(question, thinking, said):
    return fault(question, thinking, said, ("step", "false", "chain", "numbers"))


def fault_without_numbers(question, thinking, said):
    return fault(question, thinking, said, ("step", "false", "chain", "end"))


def fault_numbers_as_a_set(question, thinking, said):
    def differ(used, given):
        return set(used) != set(given)

    return fault(question, thinking, said, numbers=differ)


def fault_numbers_in_any_order(question, thinking, said):
    def differ(used, given):
        return sorted(used) != sorted(given)

    return fault(question, thinking, said, numbers=differ)


def fault_numbers_only_known(question, thinking, said):
    def differ(used, given):
        return bool(set(used) - set(given))

    return fault(question, thinking, said, numbers=differ)


def fault_start_not_looked_at(question, thinking, said):
    def differ(used, given):
        return used[1:] != given[1:]

    return fault(question, thinking, said, numbers=differ)


def fault_finds_steps_anywhere(question, thinking, said):
    return fault(question, thinking, said, match=STEP.search)


def fault_passes_over_words(question, thinking, said):
    return fault(question, thinking, said, ("false", "chain", "end", "numbers"))


def fault_end_first(question, thinking, said):
    looks = ("step", "end", "false", "chain", "numbers")
    return fault(question, thinking, said, looks)


def fault_step_by_step(question, thinking, said):
    """The first step with a fault decides, whichever fault it is."""
    parts = thinking.split(";")
    for i in range(1, len(parts) + 1):
        found = fault(question, ";".join(parts[:i]), said, ("step", "false", "chain"))
        if found:
            return found
    return fault(question, thinking, said)


# ---------------------------------------------------------------- usable_share


def share_all_right_only(right, n, G):
    return 1 - math.comb(right, G) / math.comb(n, G)


def share_of_all_right(right, n, G):
    return math.comb(right, G) / math.comb(n, G)


def share_useless(right, n, G):
    return (math.comb(right, G) + math.comb(n - right, G)) / math.comb(n, G)


def share_plugged_in(right, n, G):
    p = right / n
    return 1 - p**G - (1 - p) ** G


def share_yes_or_no(right, n, G):
    return float(0 < right < n)


def share_some_right(right, n, G):
    return 1 - math.comb(n - right, G) / math.comb(n, G)


def share_variance(right, n, G):
    p = right / n
    return 4 * p * (1 - p)


def share_drawn_with_order(right, n, G):
    useless = math.comb(right, G) + math.comb(n - right, G)
    return 1 - useless / math.perm(n, G)


# ---------------------------------------------------------------- overlapping


def words_of(text):
    """Letters and digits, in lower case."""
    return re.findall("[a-z0-9]+", text.lower())


def overlap(train, test, n, words=words_of, last=1, short=False, share=None):
    """A right answer with its words, its last run and its rule to be changed."""

    def runs(text):
        found = words(text)
        every = {tuple(found[i : i + n]) for i in range(len(found) - n + last)}
        return {tuple(found)} if short and found and len(found) < n else every

    share = share or (lambda mine, seen: bool(mine & seen))
    seen = set().union(*map(runs, test))
    return [i for i, text in enumerate(train) if share(runs(text), seen)]


def overlap_without_last_run(train, test, n):
    return overlap(train, test, n, last=0)


def overlap_short_runs_at_the_end(train, test, n):
    return overlap(train, test, n, last=n)


def overlap_short_texts_whole(train, test, n):
    return overlap(train, test, n, short=True)


def overlap_with_punctuation(train, test, n):
    return overlap(train, test, n, lambda text: text.lower().split())


def overlap_with_capitals(train, test, n):
    return overlap(train, test, n, lambda text: re.findall("[A-Za-z0-9]+", text))


def overlap_of_any_script(train, test, n):
    return overlap(train, test, n, lambda text: re.findall(r"\w+", text.lower()))


def overlap_without_digits(train, test, n):
    return overlap(train, test, n, lambda text: re.findall("[a-z]+", text.lower()))


def overlap_one_more_word(train, test, n):
    return overlap(train, test, n + 1)


def overlap_as_substring(train, test, n):
    joined = " ".join
    texts = [joined(words_of(text)) for text in train]
    every = [words_of(text) for text in test]
    runs = [joined(w[i : i + n]) for w in every for i in range(len(w) - n + 1)]
    return [i for i, text in enumerate(texts) if any(run in text for run in runs)]


def overlap_whole_text_only(train, test, n):
    def inside(mine, seen):
        return bool(mine) and mine <= seen

    return overlap(train, test, n, share=inside)


def overlap_bag_of_words(train, test, n):
    every = [set(words_of(text)) for text in test]
    return [
        i
        for i, text in enumerate(train)
        if any(len(set(words_of(text)) & other) >= n for other in every)
    ]


def overlap_returns_the_clean(train, test, n):
    found = overlap(train, test, n)
    return [i for i in range(len(train)) if i not in found]


# ---------------------------------------------------------------- pick


def picked(shapes, right, n, k, keep=None, key=None, order=sorted):
    """A right answer with its rule, its order and its turns to be changed."""
    keep = keep or (lambda count: 0 < count < n)
    key = key or (lambda i: abs(2 * right[i] - n))
    queues = {}
    for i, shape in enumerate(shapes):
        if keep(right[i]):
            queues.setdefault(shape, []).append(i)
    for queue in queues.values():
        queue.sort(key=key)
    found = []
    while len(found) < k and any(queues.values()):
        for shape in order(queues):
            if queues[shape] and len(found) < k:
                found.append(queues[shape].pop(0))
    return found


def pick_keeps_solved(shapes, right, n, k):
    return picked(shapes, right, n, k, lambda count: count > 0)


def pick_keeps_hopeless(shapes, right, n, k):
    return picked(shapes, right, n, k, lambda count: count < n)


def pick_keeps_all(shapes, right, n, k):
    return picked(shapes, right, n, k, lambda count: True)


def pick_hardest(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: right[i])


def pick_easiest(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: -right[i])


def pick_as_they_come(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: 0)


def pick_later_of_equal(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: (abs(2 * right[i] - n), -i))


def pick_by_float_rates(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: abs(right[i] / n - 0.5))


def pick_without_shapes(shapes, right, n, k):
    return picked([0] * len(shapes), right, n, k)


def pick_shapes_as_found(shapes, right, n, k):
    return picked(shapes, right, n, k, order=list)


def pick_one_of_each(shapes, right, n, k):
    return picked(shapes, right, n, min(k, len(set(shapes))))


def pick_whole_halves(shapes, right, n, k):
    return picked(shapes, right, n, k, key=lambda i: abs(right[i] - n // 2))


def pick_in_ascending_order(shapes, right, n, k):
    return sorted(picked(shapes, right, n, k))


MISTAKES = {
    "parse_reply": (
        Mistake(
            parse_answer_anywhere,
            "The number is in there somewhere: that is what a policy learns to exploit."
            " Only digits right behind `</think>`, up to the end, are an answer.",
        ),
        Mistake(
            parse_search,
            "Text before the thought, or behind the answer, makes the reply ill formed:"
            " match the whole reply (`re.fullmatch`), do not search in it.",
        ),
        Mistake(
            parse_open_end,
            "`re.match` is content with a beginning. Nothing may stand behind the"
            " digits.",
        ),
        Mistake(
            parse_greedy,
            "`.*` runs over further marks. A thought holds no < and no >: use"
            " `[^<>]*`.",
        ),
        Mistake(
            parse_spaces,
            "The form knows no spaces around the answer. What is allowed once is"
            " learned.",
        ),
        Mistake(
            parse_any_digits,
            "In Python `\\d` is any digit of Unicode, such as ٣. Use `[0-9]` or"
            " `re.ASCII`.",
        ),
        Mistake(parse_one_line, "A thought may have several lines."),
        Mistake(
            parse_needs_thought,
            "An empty thought is well formed: return an empty string for it.",
        ),
        Mistake(
            parse_ignores_prefill,
            "With `prefilled` the opening mark stood in the prompt already, and the"
            " reply begins inside the thought.",
        ),
        Mistake(
            parse_prefill_optional,
            "Whether the mark was given is no guess: without `prefilled` a reply that"
            " lacks it is ill formed, with it a second one is.",
        ),
        Mistake(
            parse_by_split,
            "`int` takes ' 5', '+5' and '1_000', and the head may hold further marks.",
        ),
    ),
    "final_answer": (
        Mistake(
            final_as_float,
            "A float is not the number that was written: 0.1 has no exact one, and"
            " 10**17 + 1 neither. Return a Fraction, a Decimal or an int.",
        ),
        Mistake(final_first_mark, "The answer stands behind the *last* ####."),
        Mistake(
            final_last_number,
            "Without #### there is no answer, and what stands behind it must be a"
            " number as a whole.",
        ),
        Mistake(final_one_comma, "12,345,678 has two commas: remove them all."),
        Mistake(
            final_any_comma,
            "Commas stand between groups of three digits. What '1,23' means nobody"
            " knows: return None.",
        ),
        Mistake(
            final_published,
            "That is GSM8K's own pattern. It takes the first mark, wants a space behind"
            " it, knows no $, and is content with a beginning: '5 or 6' is no answer.",
        ),
        Mistake(final_keeps_the_stop, "One full stop at the end does not count."),
        Mistake(final_whole_only, "Answers have decimals, too."),
        Mistake(
            final_percent_as_share,
            "The unit does not count: 50% was asked for as 50.",
        ),
        Mistake(final_without_sign, "A number may be below zero: keep its sign."),
        Mistake(final_without_mark, "A text without #### has no final answer."),
        Mistake(
            final_dollar_and_percent,
            "A number has a $ or a %, not both: '$50%' is None.",
        ),
        Mistake(
            final_sign_behind_the_dollar,
            "The minus sign stands in front of the $: '-$3', not '$-3'.",
        ),
        Mistake(
            final_spaces_inside,
            "Spaces stand around the number, not in it: '1 000' is None.",
        ),
        Mistake(
            final_all_stops,
            "*One* full stop at the end does not count: '7..' is None.",
        ),
    ),
    "annotation_holds": (
        Mistake(
            note_by_float,
            "Floats: 0.1 + 0.2 is not 0.3 there. Make a Fraction of each number.",
        ),
        Mistake(
            note_nearly,
            "Nearly is not equal: with a tolerance 33.333333333333336 passes for a"
            " third of a hundred.",
        ),
        Mistake(note_rounded, "No rounding: 1/3=0.33 does not hold."),
        Mistake(note_left_to_right, "* and / bind before + and -."),
        Mistake(
            note_right_to_left,
            "Operations of the same rank are taken from the left: 10-2-3 is 5.",
        ),
        Mistake(note_without_signs, "A number may have a sign: 5-8=-3."),
        Mistake(
            note_two_numbers,
            "An annotation may have several operations, brackets and signs, on both"
            " sides.",
        ),
        Mistake(
            note_false_for_nonsense,
            "False means wrong arithmetic. For what is no arithmetic return None: the"
            " one is dropped, the other may be readable to somebody else.",
        ),
        Mistake(note_first_two_sides, "Two equals signs are one too many: None."),
        Mistake(
            note_by_decimal,
            "A Decimal is exact for what is written, not for quotients: 100/3 is cut"
            " after 28 digits. Use Fraction.",
        ),
    ),
    "trace_fault": (
        Mistake(
            fault_of_the_answer_only,
            "A right last step proves little: look at every step on the way.",
        ),
        Mistake(fault_without_truth, "Is each step true?"),
        Mistake(
            fault_without_chain,
            "Does each step begin with the number that the one before it found?",
        ),
        Mistake(fault_without_end, "The last step must find the answer that is given."),
        Mistake(
            fault_without_numbers,
            "True and chained is not enough: 12+4=16;16-6=10 never looked at the"
            " question. Compare the numbers used with those given.",
        ),
        Mistake(
            fault_numbers_as_a_set,
            "A number may stand twice in a question, and then it is needed twice.",
        ),
        Mistake(
            fault_numbers_in_any_order,
            "These stories are told in the order in which they are worked: compare"
            " lists.",
        ),
        Mistake(
            fault_numbers_only_known,
            "Numbers of the question that were not used are steps that were skipped.",
        ),
        Mistake(
            fault_start_not_looked_at,
            "The first step begins with the first number of the question.",
        ),
        Mistake(
            fault_finds_steps_anywhere,
            "A part between semicolons must be a step as a whole: fullmatch.",
        ),
        Mistake(
            fault_passes_over_words,
            "A part that is no step is a fault, not to be passed over: it may be the"
            " answer, told in front.",
        ),
        Mistake(
            fault_end_first,
            "Where a trace has several faults, return the first of the list in the"
            " task.",
        ),
        Mistake(
            fault_step_by_step,
            "You look for all faults step by step, so a broken chain hides a false step"
            " behind it. Where there are several, the first of the *list* is due.",
        ),
    ),
    "usable_share": (
        Mistake(share_all_right_only, "A group of wrong answers is useless as well."),
        Mistake(
            share_of_all_right,
            "That is the chance that all are right: the groups that teach nothing.",
        ),
        Mistake(share_useless, "That is the share of the useless groups."),
        Mistake(
            share_plugged_in,
            "right / n is not p. Put into the formula it is biased: of n counted"
            " answers count the ways to take G of them.",
        ),
        Mistake(
            share_yes_or_no,
            "A prompt with mixed answers can still give a group that agrees.",
        ),
        Mistake(
            share_some_right,
            "That is pass@k: at least one right. Here at least one must be wrong, too.",
        ),
        Mistake(
            share_variance,
            "That is the variance of one answer, scaled. Groups have G of them.",
        ),
        Mistake(
            share_drawn_with_order,
            "Groups above and below must be counted alike: both without an order.",
        ),
    ),
    "overlapping": (
        Mistake(
            overlap_without_last_run,
            "A text of m words has m - n + 1 runs; the last one is missing.",
        ),
        Mistake(
            overlap_short_runs_at_the_end,
            "A run has n words; slices at the end of the text are shorter.",
        ),
        Mistake(overlap_short_texts_whole, "A text of fewer than n words has no run."),
        Mistake(
            overlap_with_punctuation,
            "`split` leaves punctuation on the words: 'miles' and 'miles,' differ.",
        ),
        Mistake(
            overlap_of_any_script,
            r"`\w` also matches the underscore and the letters of all scripts. Here a"
            " word is a run of a to z and 0 to 9.",
        ),
        Mistake(overlap_with_capitals, "Compare in lower case."),
        Mistake(overlap_without_digits, "Digits belong to words: numbers count."),
        Mistake(overlap_one_more_word, "n words, not n + 1."),
        Mistake(
            overlap_as_substring,
            "A run must begin and end with whole words: 'train' is no part of"
            " 'restrain'.",
        ),
        Mistake(
            overlap_whole_text_only,
            "One run in common is enough; it need not be all of them.",
        ),
        Mistake(overlap_bag_of_words, "A run is n words in a row, not n words."),
        Mistake(
            overlap_returns_the_clean,
            "Return the places that overlap, those to be dropped.",
        ),
    ),
    "pick": (
        Mistake(pick_keeps_solved, "A prompt that is always solved teaches nothing."),
        Mistake(pick_keeps_hopeless, "A prompt that is never solved teaches nothing."),
        Mistake(
            pick_keeps_all,
            "Leave out prompts that are always or never solved.",
        ),
        Mistake(
            pick_hardest,
            "The hardest prompts are nearly never solved: most groups agree. Take those"
            " nearest to one half first.",
        ),
        Mistake(pick_easiest, "Take the prompts nearest to one half first."),
        Mistake(
            pick_as_they_come,
            "Within a shape, the prompts nearest to one half come first.",
        ),
        Mistake(
            pick_later_of_equal, "Of two equally near ones the earlier comes first."
        ),
        Mistake(
            pick_by_float_rates,
            "1/3 and 2/3 are equally near to one half, their floats are not: compare"
            " counts, as in `abs(2 * right - n)`.",
        ),
        Mistake(
            pick_without_shapes,
            "Balance: the shapes take turns, whatever their pass rates.",
        ),
        Mistake(pick_shapes_as_found, "The shapes take turns in their sorted order."),
        Mistake(
            pick_one_of_each,
            "Go round again until k are found: a shape may have more to give.",
        ),
        Mistake(
            pick_whole_halves,
            "`n // 2` is not half of an odd n: with n = 5, 2 and 3 are equally near.",
        ),
        Mistake(
            pick_in_ascending_order,
            "Return the places in the order in which they were taken.",
        ),
    ),
}

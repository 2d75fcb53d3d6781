"""Checks of the exercise `reasoning_traces`.

References: a reply taken apart character by character (parse_reply), decimals (final
answers), Python's own parser with fractions for numbers (annotation_holds), the number
carried through the steps (trace_fault), all groups listed (usable_share), windows of a
padded text (overlapping), one choice after the other (pick).
"""

from __future__ import annotations

import ast
import itertools
import re
import string
from decimal import Decimal
from fractions import Fraction

import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.reasoning_traces import MISTAKES
from posttrain.checks.task import Task

DIGITS = "0123456789"


def pick_one(rng, items):
    """One of them."""
    return items[whole(rng, 0, len(items))]


def chance(rng):
    """True half of the time."""
    return whole(rng, 0, 2) == 1


# ---------------------------------------------------------------- parse_reply

BROKEN = (
    *("", "10", "<think>", "</think>10", "<think>a", "<think>a</think>", "a</think>7"),
    *("<think>a</think>ten", "<think>a</think> 10", "<think>a</think>10 ", "10<think>"),
    *("<think>a</think>1_0", "<think>a</think>+1", "<think>a</think>-1", " <think>a"),
    *("<think>a</think>1.0", "<think>a</think>٣", "<think>a</think>²", "10</think>"),
    *("<think>a</think>b</think>10", "<think><think>a</think>10", "a10</think>b"),
    *("<think>a</think>10<think>b</think>10", "<think></think>", "7<think>a</think>7"),
    *("<think>a</think>10</think>", "<think>a</think>10\n", "<think>a</think>1 0"),
    *("<THINK>a</THINK>10", "<think>1<2</think>3", "<think>2>1</think>3", "</think>"),
)
WHOLE = (
    *("<think>12+3=15</think>15", "<think></think>7", "<think>a\nb</think>007"),
    *("12+3=15</think>15", "</think>7", "a\nb</think>0", "<think> x = 5. </think>5"),
)


def parse_cases(rng, hidden):
    for text in (*WHOLE, *BROKEN):
        yield text, False
        yield text, True
    for _ in range(12 if hidden else 4):
        pieces = ("<think>", "</think>", "5", "12", "a=b", " ", "\n")
        text = "".join(pick_one(rng, pieces) for _ in range(whole(rng, 1, 6)))
        yield text, chance(rng)


def drive_parse(answer, reply, prefilled):
    return answer(reply, prefilled)


def reference_parse(reply, prefilled):
    """Read from the front: the mark, the thought, the mark, digits."""
    text = reply
    if not prefilled:
        if text[:7] != "<think>":
            return None
        text = text[7:]
    thought = []
    while text and text[0] not in "<>":
        thought.append(text[0])
        text = text[1:]
    if text[:8] != "</think>" or not text[8:] or set(text[8:]) - set(DIGITS):
        return None
    return "".join(thought), int(text[8:])


# ---------------------------------------------------------------- final_answer

FINALS = (
    *("72", "1,234", "12,345,678", "$1,234.50", "-3", "-$3", "50%", "0.1", "1.10"),
    *("7.", "$5.", "-12,000.", " 8 ", "0", "100.00", "1,000,000,000", ".5", "-0.25"),
)
NO_FINALS = (
    *("", "ten", "1,23", "12,34,567", "1,2345", ",123", "1.2.3", "--3", "3-", "5 or 6"),
    *("1e3", "$", "-", ".", "1_000", "٣", "7 apples", "1234,567", "1,234,56"),
    *("$50%", "$-3", "7..", "1 000", "- 3", "$ 5", "50 %"),
)


def final_cases(rng, hidden):
    for text in (*FINALS, *NO_FINALS):
        yield (f"12+3 = <<12+3=15>>15.\n#### {text}",)
    yield ("#### 4\nWait, that is wrong.\n#### 5",)
    yield ("There are 5 of them.",)
    yield ("It costs $7.\n####8",)
    yield ("### 9",)
    yield ("72",)
    yield ("",)
    for _ in range(12 if hidden else 4):
        number = whole(rng, 0, 10 ** whole(rng, 1, 11))
        shown = f"{number:,}" if chance(rng) else str(number)
        if chance(rng):
            shown += f".{whole(rng, 0, 1000):03d}"
        sign = "-" if chance(rng) else ""
        form = pick_one(rng, ("{}{}", "{}${}", "{}{}%", "{}{}."))
        yield (f"That is 1,234.\n#### {form.format(sign, shown)}",)


def drive_final(answer, text):
    """The number as a pair of whole numbers; a float is taken for what it is."""
    from fractions import Fraction

    found = answer(text)
    if found is None:
        return None
    exact = Fraction(found)
    return exact.numerator, exact.denominator


def reference_final(text):
    parts = text.split("####")
    shown = parts[-1].strip()
    if len(parts) == 1:
        return None
    if shown.endswith("."):
        shown = shown[:-1]
    sign = shown.startswith("-")
    shown = shown[1:] if sign else shown
    if shown.startswith("$"):
        shown = shown[1:]
    elif shown.endswith("%"):
        shown = shown[:-1]
    entire, point, decimals = shown.partition(".")
    first, *groups = entire.split(",")
    digits = first + "".join(groups) + decimals
    ill = not digits or set(digits) - set(DIGITS) or (point and not decimals)
    if groups:
        ill = ill or not 1 <= len(first) <= 3 or any(len(g) != 3 for g in groups)
    if ill:
        return None
    exact = Decimal(f"{first}{''.join(groups)}.{decimals or 0}")
    return (-exact if sign else exact).as_integer_ratio()


# ---------------------------------------------------------------- annotation_holds

NOTES = (
    *("48/2=24", "2+3*4=14", "2+3*4=20", "(2+3)*4=20", "10-2-3=5", "10-2-3=11"),
    *("24/4/2=3", "24/4/2=12", "12/4*3=9", "0.1+0.2=0.3", "1/3=0.33", ".5*8=4"),
    *("20*.01*120=24", "7-4.2-2.05=0.75", "3/4=6/8", "5-8=-3", "-3+5=2", "2*(3-5)=-4"),
    *("100/3=33.333333333333336", "12*11=121", " 4 + 4 = 8 ", "((7))=7", "1.10*3=3.3"),
    *("1/3*3=1", "+3+4=7", "-(2+3)=-5", "2--3=5", "2*-3=-6"),
)
NO_NOTES = (
    *("2+2", "", "=", "2+=4", "=4", "1=1=1", "560//10=56", "2**3=8", "6/0=0", "0=1/0"),
    *("(2+3=5", "2)+3=5", "2 3=23", "x=5", "ten=10", "2+2=four", "1,000+1=1,001"),
    *("__import__('os').getpid()=1", "True+1=2", "5%2=1", "1e3=1000", "max(1,2)=2"),
    *("1_0+1=11", "()=0", "6/(3-3)=0", "*3=3", "2+*3=5", "1..2=1", "0x10=16"),
    *("(2+3(=5", "2(3)=6", "(2)(3)=6", "5)=5", "1,5=1,5", "=", "2+3", "3-=3"),
)


def note_cases(rng, hidden):
    for text in (*NOTES, *NO_NOTES):
        yield (text,)
    for _ in range(12 if hidden else 5):
        shown = written(rng, 3)
        value = exactly(shown)
        if value is None:
            yield (f"{shown}=1",)
            continue
        value += pick_one(rng, (0, 0, 1, Fraction(1, 10**9)))
        shown_value = f"{value.numerator}/{value.denominator}"
        yield (f"{shown}={value if value.denominator == 1 else shown_value}",)


def written(rng, depth):
    """A random expression."""
    if depth == 0 or whole(rng, 0, 5) == 0:
        return pick_one(rng, ("2", "7", "12", "0.1", ".25", "100", "3.50"))
    left, right = written(rng, depth - 1), written(rng, depth - 1)
    shape = pick_one(rng, ("{}{}{}", "({}{}{})", "{} {} ({})"))
    return shape.format(left, pick_one(rng, "+-*/"), right)


def drive_note(answer, annotation):
    found = answer(annotation)
    return None if found is None else bool(found)


OPERATIONS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def exactly(text):
    """The value of an expression by Python's parser, or None."""
    if set(text) - set(DIGITS + ".+-*/() "):
        return None

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(text, node))
        if isinstance(node, ast.UnaryOp):
            inside = walk(node.operand)
            return -inside if isinstance(node.op, ast.USub) else inside
        if not isinstance(node, ast.BinOp):
            raise SyntaxError
        return OPERATIONS[type(node.op)](walk(node.left), walk(node.right))

    text = text.strip()
    try:
        return walk(ast.parse(text, mode="eval").body)
    except (SyntaxError, KeyError, ZeroDivisionError):
        return None


def reference_note(annotation):
    sides = [exactly(side) for side in annotation.split("=")]
    return None if len(sides) != 2 or None in sides else sides[0] == sides[1]


# ---------------------------------------------------------------- trace_fault

STORY = "Mia has 12 coins, finds 3 more, loses 5, gets 12 more. How many now?"
THOUGHTS = (
    ("12+3=15;15-5=10;10+12=22", 22),
    ("12+3=15;15-5=10;10+12=22", 23),
    ("12+3=15;15-5=10", 10),
    ("15-5=10;10+12=22", 22),
    ("12+3=15;15+12=27", 27),
    ("12+3=15;15+12=27;27-5=22", 22),
    ("12+3=15;10+12=22", 22),
    ("12+3=16;16-5=11;11+12=23", 23),
    ("12+3=16;15-5=10;10+12=22", 22),
    ("12+3=15;15-5=10;10+12=23", 22),
    ("12+3=15;15-5=10;10+12=23", 23),
    ("12+4=16;16-6=10;10+12=22", 22),
    ("13+3=16;16-5=11;11+12=23", 23),
    ("12+3=15;15-5=10;10+12=22;22+0=22", 22),
    ("12+3=15;15-5=10;10+12=22;10+12=22", 22),
    ("10+12=22;12+3=15;15-5=10", 10),
    ("3+12=15;15-5=10;10+12=22", 22),
    ("12+3=15;5-15=-10;10+12=22", 22),
    ("22;12+3=15;15-5=10;10+12=22", 22),
    ("12+3=15;15-5=10;10+12=22;", 22),
    ("12+3=15; 15-5=10;10+12=22", 22),
    ("12+3-5=10;10+12=22", 22),
    ("Well, 12+3=15;15-5=10;10+12=22", 22),
    ("", 22),
    ("22", 22),
    ("12+3=15=15;15-5=10;10+12=22", 22),
    ("12*3=36", 36),
    ("12+3=15;16-5=11;11+12=24", 24),  # the list decides, not which step is first
)


def fault_cases(rng, hidden):
    for thinking, said in THOUGHTS:
        yield STORY, thinking, said
    yield "Bo has 7 pens, loses 7. How many now?", "7-7=0", 0
    yield "Bo has 7 pens, loses 7. How many now?", "7-7=0;0+7=7", 7
    for _ in range(12 if hidden else 5):
        yield told(rng)


def told(rng):
    """A problem and its work, sometimes with one number off."""
    start = now = whole(rng, 5, 30)
    clauses, steps = [f"Ann has {start} books"], []
    for _ in range(whole(rng, 1, 5)):
        change = whole(rng, 2, 10)
        less = change < now and chance(rng)
        clauses.append(f"{'sells' if less else 'buys'} {change}")
        after = now - change if less else now + change
        steps.append([now, "-" if less else "+", change, after])
        now = after
    if chance(rng):
        step, place = pick_one(rng, steps), pick_one(rng, (0, 2, 3))
        step[place] += pick_one(rng, (1, 2))
    thinking = ";".join(f"{a}{sign}{b}={c}" for a, sign, b, c in steps)
    said = steps[-1][3] + (whole(rng, 0, 4) == 0)
    return ", ".join(clauses) + ". How many now?", thinking, said


def drive_fault(answer, question, thinking, said):
    return answer(question, thinking, said)


def reference_fault(question, thinking, said):
    """Carry the number through the steps; the first fault of the list counts."""
    found = [
        re.fullmatch(r"([0-9]+)([+-])([0-9]+)=([0-9]+)", part)
        for part in thinking.split(";")
    ]
    if None in found:
        return "not a step"
    steps = [(int(f[1]), int(f[2] + f[3]), int(f[4])) for f in found]
    faults = set()
    now, used = steps[0][0], [steps[0][0]]
    for before, change, after in steps:
        if before + change != after:
            faults.add("false step")
        if before != now:
            faults.add("broken chain")
        used.append(abs(change))
        now = after
    if now != said:
        faults.add("another answer")
    spaced = "".join(c if c in DIGITS else " " for c in question)
    if used != [int(number) for number in spaced.split()]:
        faults.add("not the question's")
    order = ("false step", "broken chain", "another answer", "not the question's")
    return next((fault for fault in order if fault in faults), None)


# ---------------------------------------------------------------- usable_share


def share_cases(rng, hidden):
    for right, n, G in (
        *((4, 8, 4), (0, 8, 4), (8, 8, 4), (1, 8, 8), (1, 8, 4), (7, 8, 4), (1, 2, 2)),
        *((3, 8, 1), (2, 5, 3), (3, 5, 3), (5, 10, 2), (9, 10, 3)),
    ):
        yield right, n, G
    for _ in range(8 if hidden else 3):
        n = whole(rng, 2, 11)
        yield whole(rng, 0, n + 1), n, whole(rng, 1, n + 1)


def drive_share(answer, right, n, G):
    return float(answer(right, n, G))


def reference_share(right, n, G):
    """List every group."""
    answers = [1] * right + [0] * (n - right)
    groups = list(itertools.combinations(answers, G))
    return sum(0 < sum(group) < G for group in groups) / len(groups)


# ---------------------------------------------------------------- overlapping

QUESTIONS = [
    "Mia has 12 coins. How many does she have now?",
    "How many does she have?",
    "A train travels 360 miles in 3 hours!",
    "a TRAIN travels, 360 miles -- in 3 hours",
    "one",
    "",
    "restrain travels 360 miles in 3 hourss",
    "Miles in 3",
]
TEST = ["The train travels 360 miles in 30 hours.", "How many does she have left?", ""]


def overlap_cases(rng, hidden):
    for n in (1, 2, 3, 4, 5, 6, 7, 9):
        yield QUESTIONS, TEST, n
    yield ["a b c"], ["a b c"], 3
    yield ["a b c"], ["a b c"], 4
    yield ["a b", "c d"], ["b c"], 2
    yield ["x a b"], ["a", "b"], 2
    yield ["a b c d"], ["a b", "c d"], 2
    yield ["a_b c", "caf\u00e9"], ["b c", "caf"], 2
    yield ["a_b c", "caf\u00e9"], ["b c", "caf"], 1
    yield ["a b c"], [], 1
    yield [], ["a b c"], 1
    for _ in range(6 if hidden else 2):
        words = ("a", "b", "ab", "B,", "7", "7.", "a-b")
        texts = [
            " ".join(pick_one(rng, words) for _ in range(whole(rng, 0, 7)))
            for _ in range(7)
        ]
        yield texts[:5], texts[5:], whole(rng, 1, 5)


def drive_overlap(answer, train, test, n):
    return list(answer(train, test, n))


def reference_overlap(train, test, n):
    """Windows of each test text, looked for in each training text as a string."""
    letters = string.ascii_lowercase + DIGITS

    def words(text):
        return "".join(c if c in letters else " " for c in text.lower()).split()

    windows = []
    for text in test:
        every = words(text)
        windows += [every[i : i + n] for i in range(len(every)) if len(every) - i >= n]
    return [
        place
        for place, text in enumerate(train)
        if any(f" {' '.join(w)} " in f" {' '.join(words(text))} " for w in windows)
    ]


# ---------------------------------------------------------------- pick


def pick_cases(rng, hidden):
    yield [2, 3], [1, 1], 4, 2
    yield [2, 2, 2, 3], [1, 2, 3, 2], 4, 2
    yield [3, 2, 3, 2, 4], [4, 4, 4, 4, 4], 8, 3
    yield [2, 2, 3], [0, 8, 4], 8, 3
    yield [2, 2, 2, 3], [1, 7, 4, 5], 8, 9
    yield [2, 2, 3, 3], [1, 7, 6, 2], 8, 4
    yield [10, 9, 10, 9], [3, 3, 5, 5], 8, 3
    yield [2, 3, 4], [1, 1, 1], 2, 0
    yield [2, 3], [0, 4], 4, 2
    yield [5, 5, 5, 5], [1, 3, 2, 2], 5, 4
    yield [2, 2, 2], [1, 2, 1], 3, 3
    yield [64, 3, 64, 3], [1, 1, 1, 1], 2, 3
    for _ in range(6 if hidden else 3):
        size, n = whole(rng, 4, 14), whole(rng, 2, 9)
        shapes = torch.randint(2, 6, (size,), generator=rng).tolist()
        right = torch.randint(0, n + 1, (size,), generator=rng).tolist()
        yield shapes, right, n, whole(rng, 1, size)


def drive_pick(answer, shapes, right, n, k):
    given = list(shapes), list(right)
    found = list(answer(shapes, right, n, k))
    return {"places": found, "inputs unchanged": given == (shapes, right)}


def reference_pick(shapes, right, n, k):
    """One choice after the other: the shape with the fewest choices so far, the
    smallest of those; in it the rate nearest to one half."""
    left = {i for i, count in enumerate(right) if count % n}
    chosen = []
    while left and len(chosen) < k:
        taken = [shapes[i] for i in chosen]
        shape = min({shapes[i] for i in left}, key=lambda s: (taken.count(s), s))
        mine = [i for i in left if shapes[i] == shape]
        best = min(mine, key=lambda i: (abs(Fraction(right[i], n) - Fraction(1, 2)), i))
        chosen.append(best)
        left.remove(best)
    return {"places": chosen, "inputs unchanged": True}


TASKS = {
    "parse_reply": Task(
        parse_cases, drive_parse, reference_parse, MISTAKES["parse_reply"]
    ),
    "final_answer": Task(
        final_cases, drive_final, reference_final, MISTAKES["final_answer"]
    ),
    "annotation_holds": Task(
        note_cases,
        drive_note,
        reference_note,
        MISTAKES["annotation_holds"],
        forbid=("eval", "exec"),
    ),
    "trace_fault": Task(
        fault_cases, drive_fault, reference_fault, MISTAKES["trace_fault"]
    ),
    "usable_share": Task(
        share_cases, drive_share, reference_share, MISTAKES["usable_share"]
    ),
    "overlapping": Task(
        overlap_cases, drive_overlap, reference_overlap, MISTAKES["overlapping"]
    ),
    "pick": Task(pick_cases, drive_pick, reference_pick, MISTAKES["pick"]),
}

"""Problems in the form of GSM8K, for when the published file is not there.

Own sentences and generated numbers: not one line is GSM8K's. A row is a line of JSON
with a `question` and an `answer`; the answer is worked line by line, with the
calculator's annotations `<<48/2=24>>`, and ends with `#### ` and the number. Here, too,
some numbers have commas, some lines decimals, fractions or percent, some rows no
annotation, a few end below zero.
"""

from __future__ import annotations

import json
import random
from fractions import Fraction
from functools import partial

NAMES = ("Ada", "Bo", "Cleo", "Dov", "Esi", "Finn", "Gia", "Hana", "Ivo", "Juno")
ROWS = {"train": 240, "test": 60}


def rows_like_gsm8k(split: str) -> str:
    """The stand-in for "train" or "test": JSON, a row a line, the same on every call.

    No question of one stands in the other.
    """
    rng = random.Random("rows like GSM8K")
    rows: dict[str, str] = {}
    while len(rows) < sum(ROWS.values()):
        question, answer = rng.choice(STORIES)(rng, rng.choice(NAMES))
        rows.setdefault(question, answer)
    lines = [json.dumps({"question": q, "answer": a}) for q, a in rows.items()]
    cut = ROWS["train"]
    return "\n".join(lines[:cut] if split == "train" else lines[cut:]) + "\n"


def _shown(number: int | Fraction) -> str:
    """A number as the calculator writes it: 7, 0.25, .5 never."""
    return str(number) if number == int(number) else f"{float(number):g}"


def _shop(rng: random.Random, name: str) -> tuple[str, str]:
    """Money with cents."""
    cost, n = Fraction(rng.randrange(25, 500, 25), 100), rng.randint(2, 9)
    paid = (int(cost * n) // 20 + 1) * 20
    total, back = cost * n, paid - cost * n
    question = (
        f"A jar of honey costs ${float(cost):.2f}. {name} buys {n} jars and pays with"
        f" ${paid}. How many cents come back?"
    )
    answer = (
        f"The jars cost {n} * {float(cost):.2f} ="
        f" $<<{n}*{_shown(cost)}={_shown(total)}>>{_shown(total)}.\n"
        f"{paid} - {_shown(total)} ="
        f" $<<{paid}-{_shown(total)}={_shown(back)}>>{_shown(back)} come back.\n"
        f"That is {_shown(back)} * 100 ="
        f" <<{_shown(back)}*100={_shown(back * 100)}>>{_shown(back * 100)} cents.\n"
        f"#### {_shown(back * 100)}"
    )
    return question, answer


def _factory(rng: random.Random, name: str) -> tuple[str, str]:
    """Thousands, so the answer has a comma."""
    day, days, sold = rng.randint(300, 900), rng.randint(4, 9), rng.randint(20, 290)
    made = day * days
    question = (
        f"{name}'s bakery makes {day} rolls a day for {days} days and sells all but"
        f" {sold} of them. How many rolls are sold?"
    )
    answer = (
        f"The bakery makes {day} x {days} = <<{day}*{days}={made}>>{made} rolls.\n"
        f"It sells {made} - {sold} = <<{made}-{sold}={made - sold}>>{made - sold:,}"
        f" of them.\n#### {made - sold:,}"
    )
    return question, answer


def _sale(rng: random.Random, name: str) -> tuple[str, str]:
    """Percent, worked as a decimal."""
    price, off = rng.randrange(20, 400, 20), rng.choice((5, 10, 15, 25, 40))
    less = Fraction(price * off, 100)
    question = (
        f"{name} wants a coat for ${price}. It is sold at {off}% off. How many dollars"
        " does the coat cost now?"
    )
    rate = _shown(Fraction(off, 100))
    answer = (
        f"The discount is {off}% of {price}, which is {rate} * {price} ="
        f" $<<{rate}*{price}={_shown(less)}>>{_shown(less)}.\n"
        f"The coat costs {price} - {_shown(less)} ="
        f" $<<{price}-{_shown(less)}={_shown(price - less)}>>{_shown(price - less)}.\n"
        f"#### {_shown(price - less)}"
    )
    return question, answer


def _share(rng: random.Random, name: str) -> tuple[str, str]:
    """A fraction of a fraction, with brackets in the annotation."""
    boxes, per, share = rng.randint(2, 9), rng.choice((6, 12, 24)), rng.choice((2, 3))
    total = boxes * per
    question = (
        f"{name} has {boxes} boxes of {per} pencils and gives 1/{share} of all pencils"
        " away. How many pencils are left?"
    )
    answer = (
        f"{name} gives away ({boxes}*{per})/{share} ="
        f" <<({boxes}*{per})/{share}={total // share}>>{total // share} pencils.\n"
        f"{boxes} * {per} - {total // share} ="
        f" <<{boxes}*{per}-{total // share}={total - total // share}>>"
        f"{total - total // share} are left.\n#### {total - total // share}"
    )
    return question, answer


def _cold(rng: random.Random, name: str) -> tuple[str, str]:
    """A number below zero, and no annotation, as in a row of a hundred."""
    noon, fall = rng.randint(1, 9), rng.randint(10, 20)
    question = (
        f"At noon {name} reads {noon} degrees. By midnight it is {fall} degrees colder."
        " How many degrees is it at midnight?"
    )
    return question, f"It falls from {noon} to {noon} - {fall}.\n#### {noon - fall}"


def _rounded(rng: random.Random, name: str) -> tuple[str, str]:
    """A quotient that was rounded, so the annotation is not exactly true."""
    km, hours = rng.randrange(20, 200, 10), 3
    speed = f"{km / hours:.2f}"
    question = (
        f"{name} rides {km} km in {hours} hours. How many whole kilometres is that"
        " in an hour?"
    )
    answer = (
        f"{km} / {hours} = <<{km}/{hours}={speed}>>{speed} km an hour.\n"
        f"The whole part is {km // hours}.\n#### {km // hours}"
    )
    return question, answer


STORIES = (_shop, _factory, _sale, _share, _cold, _rounded)

train_rows = partial(rows_like_gsm8k, "train")
test_rows = partial(rows_like_gsm8k, "test")

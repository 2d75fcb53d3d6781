"""What lies on every machine, for when no real data set is there.

English text: the documentation topics behind Python's own `help("for")` are real prose
of about 450,000 characters, and they come with the interpreter. They differ a little
from one Python version to the next, so a number trained on them is no reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

from posttrain import data_gsm8k
from posttrain.data_gpt2 import first_merges


@dataclass(frozen=True)
class Fallback:
    """A stand-in text: what to call it in a message, and how to make it."""

    label: str
    text: Callable[[], str]


def python_topics() -> str:
    """Python's documentation topics as one text, in alphabetical order of their names.

    Source: the standard library's `pydoc_data.topics` (PSF licence).
    """
    from pydoc_data.topics import topics  # here: 0.6 MB that few callers need

    return "\n\n".join(topics[name] for name in sorted(topics))


PYTHON_TOPICS = Fallback("Python's documentation topics", python_topics)
GPT2_FIRST_MERGES = Fallback("the first 1,000 of GPT-2's merges", first_merges)
LIKE_GSM8K_TRAIN = Fallback("240 problems in GSM8K's form", data_gsm8k.train_rows)
LIKE_GSM8K_TEST = Fallback("60 problems in GSM8K's form", data_gsm8k.test_rows)

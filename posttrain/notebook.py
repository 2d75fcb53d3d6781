"""What notebooks use to talk: `show` code, `note` numbers, `quiz` the reader.

All three only write Markdown or plain HTML, so that the book, JupyterLab and Colab show
the same thing, with or without scripts.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from html import escape

from IPython.display import HTML, Markdown, display

Choice = tuple[str, bool, str]  # the choice, is it right, why (or why not)
Question = tuple[str, Sequence[Choice]]

_QUIZ_STYLE = """<style>
.quiz{max-width:640px}
.quiz .quiz-question>p{font-weight:600;margin:0 0 .5em}
.quiz .quiz-question details{border:1px solid rgba(127,127,127,.5);border-radius:6px;
margin:.4em 0;padding:.4em .8em}
.quiz .quiz-question summary{cursor:pointer;font-weight:400}
.quiz .quiz-verdict{border-left:3px solid;margin:.5em 0 .2em;padding-left:.8em}
.quiz .quiz-verdict.right{border-color:#1b9068}
.quiz .quiz-verdict.wrong{border-color:#cc6a0a}
</style>"""


def show(*objects: Callable | type) -> None:
    """Display the source of functions, classes and methods, as the library has it."""
    for thing in objects:
        source = textwrap.dedent(inspect.getsource(thing)).rstrip()
        display(Markdown(f"```python\n{source}\n```"))


def note(markdown: str) -> None:
    """Display Markdown, for prose that holds computed numbers."""
    display(Markdown(inspect.cleandoc(markdown)))


def quiz(questions: Sequence[Question]) -> None:
    """Display questions whose choices open to say right or wrong, and why.

    A question is (text, [(choice, is it right, why), ...]); `code` in backticks is set
    as code. Raises ValueError unless exactly one choice is right and all say why.
    """
    body = "".join(_question(*question) for question in questions)
    display(HTML(f'{_QUIZ_STYLE}<div class="quiz">{body}</div>'))


def _question(text: str, choices: Sequence[Choice]) -> str:
    """The HTML of one question: each choice is a <details>, its body the verdict."""
    right = [choice for choice, is_right, _ in choices if is_right]
    if len(right) != 1:
        raise ValueError(f"{text!r} has {len(right)} right choices, expected 1")
    for choice, _, why in choices:
        if not why.strip():
            raise ValueError(f"{text!r}: the choice {choice!r} does not say why")
    items = "".join(
        f"<details><summary>{_inline(choice)}</summary>"
        f'<div class="quiz-verdict {"right" if is_right else "wrong"}">'
        f"<strong>{'Right.' if is_right else 'Not quite.'}</strong> {_inline(why)}"
        "</div></details>"
        for choice, is_right, why in choices
    )
    return (
        f'<div class="quiz-question" role="group" aria-label="{escape(text)}">'
        f"<p>{_inline(text)}</p>{items}</div>"
    )


def _inline(text: str) -> str:
    """Escaped text, with `backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))

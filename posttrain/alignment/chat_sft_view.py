"""A conversation as tokens, to look at: what is learned is boxed, the rest is plain.

Plain HTML, no script; white space is made visible, and the boxes have a border, so that
they can be told apart without colour.
"""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML, display

from posttrain.alignment.chat_template import Chat
from posttrain.foundations.tokenization import Tokenizer
from posttrain.foundations.tokenization_view import readable

_STYLE = """<style>
.chat-view{max-width:640px}
.chat-view p{margin:0 0 .2em;font-size:.9em}
.chat-view .cv-text{font-family:ui-monospace,Menlo,Consolas,monospace;
line-height:2.1;overflow-wrap:anywhere;margin:0 0 .9em}
.chat-view span{margin:0 .08em;padding:.12em .1em;border-bottom:1px dotted}
.chat-view span.mine{border:1.5px solid rgb(50,116,181);border-radius:4px;
background:rgba(50,116,181,.18)}
</style>"""


def chat_view(tokenizer: Tokenizer, rows: Sequence[tuple[str, Chat]]) -> None:
    """Display rows of (label, chat), one element a token."""
    body = "".join(
        f"<p>{escape(label)}</p><div class='cv-text'>{_tokens(tokenizer, chat)}</div>"
        for label, chat in rows
    )
    display(HTML(f'{_STYLE}<div class="chat-view">{body}</div>'))


def _tokens(tokenizer: Tokenizer, chat: Chat) -> str:
    return "".join(
        f"<span{' class=mine' if mine else ''}>"
        f"{escape(readable(tokenizer.decode_bytes([token])))}</span>"
        for token, mine in zip(chat.tokens, chat.assistant, strict=True)
    )

"""Text cut into tokens, to look at: one row a tokenizer, one box a token.

Plain HTML, no script. Colours are translucent over the page's own and only tell
neighbours apart; white space is made visible, and bytes that are no whole character are
shown as <hex>.
"""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML, display

COLOURS = ("50,116,181", "204,106,10", "27,144,104", "194,96,155")
SEEN = {" ": "·", "\n": "⏎", "\t": "→"}

_STYLE = """<style>
.token-view{max-width:640px}
.token-view .tv-row{margin:0 0 .7em}
.token-view .tv-label{font-size:.9em;margin:0}
.token-view .tv-text{font-family:ui-monospace,Menlo,Consolas,monospace;margin:0;
line-height:1.8;overflow-wrap:anywhere}
.token-view .tv-text span{padding:.1em 0;border-radius:3px}
</style>"""


def token_view(rows: Sequence[tuple[str, Sequence[bytes]]]) -> None:
    """Display rows of (label, the bytes of each token)."""
    body = "".join(_row(label, pieces) for label, pieces in rows)
    display(HTML(f'{_STYLE}<div class="token-view">{body}</div>'))


def readable(piece: bytes) -> str:
    """A token as text; bytes outside whole characters as <e7>."""
    text = piece.decode("utf-8", errors="surrogateescape")
    return "".join(
        f"<{ord(c) - 0xDC00:02x}>" if 0xDC80 <= ord(c) <= 0xDCFF else SEEN.get(c, c)
        for c in text
    )


def _row(label: str, pieces: Sequence[bytes]) -> str:
    spans = "".join(
        f'<span style="background:rgba({COLOURS[i % len(COLOURS)]},.28)">'
        f"{escape(readable(piece))}</span><wbr>"
        for i, piece in enumerate(pieces)
    )
    return (
        f'<div class="tv-row"><p class="tv-label">{escape(label)}</p>'
        f'<p class="tv-text">{spans}</p></div>'
    )

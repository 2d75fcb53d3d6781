"""An attention map that you can point at: choose a token, see where each head looks.

Plain HTML with a small script, no library, no network. Without scripts a table of all
heads for one token remains. Colours are translucent over the page's own, so light and
dark both work. Hover, tap, or use Tab and the arrow keys.
"""

import hashlib
import json
from collections.abc import Sequence
from html import escape

from IPython.display import HTML, display

Weights = Sequence[Sequence[Sequence[Sequence[float]]]]  # [L][H][T][T], or past only

LIMIT = 150_000  # bytes of HTML: what a page can carry without being slow
TOP = 4  # keys that are read out
INK = "50,116,181"  # the blue of posttrain.plot

_STYLE = """<style>
.attention-map{max-width:640px;font-size:.95em}
.attention-map .am-controls{display:flex;flex-wrap:wrap;gap:.4em 1.2em;margin:0 0 .6em}
.attention-map select{font:inherit;color:inherit;background:transparent;
border:1px solid rgba(127,127,127,.6);border-radius:4px;padding:.1em .3em}
.attention-map option{color:#111;background:#fff}
.attention-map .am-tokens{font-family:ui-monospace,Menlo,Consolas,monospace;
line-height:1.9;word-break:break-all}
.attention-map .am-tokens span{display:inline-block;min-width:.75em;text-align:center;
padding:0 .12em;margin:1px;border-radius:3px;border:1px solid transparent;
cursor:pointer}
.attention-map .am-tokens span.am-query{border-color:currentColor;font-weight:700}
.attention-map .am-tokens span:focus{outline:2px solid currentColor;outline-offset:1px}
.attention-map .am-said{min-height:3em;margin:.5em 0 0}
.attention-map .am-all td,.attention-map .am-all th{padding:.1em .5em .1em 0;
text-align:left;vertical-align:top;border:0;background:none}
</style>"""

_SCRIPT = """<script>
(function () {
  var roots = document.querySelectorAll('[data-attention-map="__ID__"]');
  roots.forEach(function (root) {
    if (root.dataset.ready) return;
    root.dataset.ready = "yes";
    var data = JSON.parse(root.querySelector("script[type='application/json']").text);
    var box = root.querySelector(".am-tokens"), said = root.querySelector(".am-said");
    var selects = root.querySelectorAll("select");
    var spans = [].slice.call(box.children), query = data.query;
    function row() {
      return data.weights[+selects[0].value][+selects[1].value][query];
    }
    function draw() {
      var weights = row();
      spans.forEach(function (span, t) {
        var w = weights[t] || 0;
        span.style.backgroundColor = "rgba(__INK__," + Math.min(0.85, w / 110) + ")";
        span.className = t === query ? "am-query" : "";
        span.tabIndex = t === query ? 0 : -1;
        span.title = w + " %";
        span.setAttribute("aria-pressed", t === query ? "true" : "false");
      });
      var order = weights.map(function (w, t) { return [w, t]; });
      order = order.filter(function (pair) { return pair[0] > 0; });
      order.sort(function (a, b) { return b[0] - a[0] || b[1] - a[1]; });
      said.textContent = "Layer " + (+selects[0].value + 1) + ", head " +
        (+selects[1].value + 1) + ": " + data.names[query] + " at position " + query +
        " looks at " + order.slice(0, __TOP__).map(function (pair) {
          var back = query - pair[1];
          var where = back === 0 ? "itself" : back > 0 ? back + " back"
            : -back + " ahead";
          return data.names[pair[1]] + " (" + where + ") " + pair[0] + " %";
        }).join(", ") + ".";
    }
    function choose(t, focus) {
      query = Math.max(0, Math.min(spans.length - 1, t));
      draw();
      if (focus) spans[query].focus();
    }
    spans.forEach(function (span, t) {
      span.addEventListener("mouseenter", function () { choose(t, false); });
      span.addEventListener("click", function () { choose(t, true); });
      span.addEventListener("focus", function () {
        if (t !== query) choose(t, false);
      });
    });
    box.addEventListener("keydown", function (event) {
      var jump = {ArrowLeft: query - 1, ArrowRight: query + 1, Home: 0,
                  End: spans.length - 1}[event.key];
      if (jump === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      choose(jump, true);
    });
    selects.forEach(function (select) { select.addEventListener("change", draw); });
    root.querySelector(".am-live").style.display = "block";
    root.querySelector(".am-all").style.display = "none";
    draw();
  });
})();
</script>"""


def attention_map(
    tokens: Sequence[str],
    weights: Weights,
    query: int | None = None,
    layer: int = 0,
    head: int = 0,
) -> None:
    """Display where each token looks, for every layer and head.

    tokens: T strings. weights: [L][H][T][T] in 0 ... 1; a causal row t may stop at t.
    query, layer, head: what is shown first, counted from 0; query None: the last token.
    Raises ValueError for shapes that do not fit and for maps above 150 kB of HTML.
    """
    display(HTML(attention_map_html(tokens, weights, query, layer, head)))


def attention_map_html(
    tokens: Sequence[str],
    weights: Weights,
    query: int | None = None,
    layer: int = 0,
    head: int = 0,
) -> str:
    """The HTML that `attention_map` displays."""
    query = len(tokens) - 1 if query is None else query
    _check(tokens, weights, query, layer, head)
    percent = [
        [[[round(100 * w) for w in row] for row in rows] for rows in heads]
        for heads in weights
    ]
    names = [_name(token) for token in tokens]
    data = {"names": names, "weights": percent, "query": query}
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    ident = "am" + hashlib.sha1(f"{packed}{layer},{head}".encode()).hexdigest()[:10]
    script = _SCRIPT.replace("__ID__", ident).replace("__INK__", INK)
    html = (
        f'{_STYLE}<div class="attention-map" data-attention-map="{ident}">'
        '<div class="am-live" style="display:none">'
        f"{_controls(len(weights), len(weights[0]), layer, head)}"
        '<div class="am-tokens" role="group" aria-label="Tokens: choose one to see'
        ' where it looks; the arrow keys move">'
        f"{_tokens(tokens, names)}</div>"
        '<p class="am-said" role="status" aria-live="polite"></p></div>'
        f"{_table(names, percent, query)}"
        f'<script type="application/json">{packed}</script></div>'
        + script.replace("__TOP__", str(TOP))
    )
    if len(html.encode()) > LIMIT:
        raise ValueError(
            f"the map is {len(html.encode()):,} bytes, the limit is {LIMIT:,}: show"
            " fewer tokens, layers or heads"
        )
    return html


def _check(
    tokens: Sequence[str], weights: Weights, query: int, layer: int, head: int
) -> None:
    """Raise ValueError where tokens, weights and the first view do not fit."""
    T, H = len(tokens), len(weights[0])
    for number, heads in enumerate(weights):
        if len(heads) != H:
            raise ValueError(f"layer {number} has {len(heads)} heads, layer 0 has {H}")
        for rows in heads:
            if len(rows) != T or any(not 1 <= len(row) <= T for row in rows):
                raise ValueError(
                    f"layer {number}: expected {T} rows of 1 to {T} weights, one row a"
                    f" token; got {len(rows)} rows of {sorted({len(r) for r in rows})}"
                )
    for name, value, size in (
        ("query", query, T),
        ("layer", layer, len(weights)),
        ("head", head, H),
    ):
        if not 0 <= value < size:
            raise ValueError(f"{name}={value} is not in 0 ... {size - 1}")


def _name(token: str) -> str:
    """A token as it is read out: white space gets a name."""
    named = {" ": "space", "\n": "line break", "\t": "tab"}
    return named.get(token, f"“{token}”")


def _controls(L: int, H: int, layer: int, head: int) -> str:
    """Two labelled selects."""
    parts = []
    for label, size, first in (("Layer", L, layer), ("Head", H, head)):
        options = "".join(
            f'<option value="{i}"{" selected" if i == first else ""}>{i + 1}</option>'
            for i in range(size)
        )
        parts.append(f"<label>{label} <select>{options}</select></label>")
    return f'<div class="am-controls">{"".join(parts)}</div>'


def _tokens(tokens: Sequence[str], names: Sequence[str]) -> str:
    """One span a token; white space gets a visible sign."""
    signs = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(
        f'<span role="button" tabindex="-1" aria-label="{escape(name)}, position {t}">'
        f"{escape(signs.get(token, token))}</span>"
        for t, (token, name) in enumerate(zip(tokens, names, strict=True))
    )


def _table(names: Sequence[str], percent: Sequence, query: int) -> str:
    """What stays without scripts: where every head looks from one token."""
    rows = []
    for l, heads in enumerate(percent):
        for h, maps in enumerate(heads):
            order = sorted(
                enumerate(maps[query]), key=lambda pair: (-pair[1], -pair[0])
            )
            top = ", ".join(
                f"{escape(names[t])} at {t}: {w} %" for t, w in order[:TOP] if w
            )
            rows.append(f"<tr><th>layer {l + 1}, head {h + 1}</th><td>{top}</td></tr>")
    return (
        '<table class="am-all"><caption>Where each head looks from '
        f"{escape(names[query])} at position {query}</caption>{''.join(rows)}</table>"
    )

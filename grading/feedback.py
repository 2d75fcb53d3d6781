"""Makes a graded notebook fit to be shown: no hidden tests, nothing that runs.

Goes in front of nbgrader's own steps for feedback pages. Of a submission's outputs only
text, errors and pictures stay; HTML, JavaScript, SVG and widgets are dropped, and what
a learner wrote as Markdown is shown as written.
"""

from __future__ import annotations

import base64
import binascii
import html
import re

from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_solution

HIDDEN = re.compile(
    r"^[^\n]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?",
    re.DOTALL | re.MULTILINE,
)
PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}


class Inert(NbGraderPreprocessor):
    """Drops what must not be shown or could act in the reader's browser."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code":
            cell.source = HIDDEN.sub("", cell.source).rstrip("\n")
            cell.outputs = [_inert(output) for output in cell.outputs]
        elif is_solution(cell):
            cell.source = html.escape(cell.source)
        cell.attachments = {}
        return cell, resources


def _inert(output):
    """The output with text and pictures alone."""
    if "data" not in output:
        return output
    kept = {}
    for mime, data in output.data.items():
        picture = mime in PICTURES and _is_picture(data, PICTURES[mime])
        if picture or mime == "text/plain":
            kept[mime] = data
    output.data, output.metadata = kept, {}
    return output


def _is_picture(data: object, magic: bytes) -> bool:
    if not isinstance(data, str):
        return False
    try:
        return base64.b64decode(data, validate=False).startswith(magic) and bool(
            re.fullmatch(r"[A-Za-z0-9+/=\s]*", data)
        )
    except (binascii.Error, ValueError):
        return False

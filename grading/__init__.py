"""Autograding: from a folder of submissions to marks, feedback pages and a table.

Knows nothing of any topic: exercises are notebooks in nbgrader's format.
"""

import sys

# As in `ci`: a package that jsonschema imports if it is there, for a second of CPU.
sys.modules.setdefault("rfc3987_syntax", None)

"""What the Makefile and CI run."""

import sys

# jsonschema, which nbformat imports, uses this package for URI formats if it is there,
# and nothing here has any; it takes a second of CPU in every process that imports it.
sys.modules.setdefault("rfc3987_syntax", None)

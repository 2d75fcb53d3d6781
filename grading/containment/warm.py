"""Imported by the warm process alone, which so becomes the heir of orphans.

When a supervisor is killed, what it looked after passes to the warm process, where
`supervisor.end_orphans` finds it.
"""

from grading.containment import linux

linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

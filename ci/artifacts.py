"""Build what several chapters start from, before they are executed.

    python -m ci.artifacts --preset ci

One that is in the cache and still current is not built again; see
`posttrain.artifacts`.
"""

import argparse
import os
import sys
import traceback

from ci import syllabus, times
from ci.processes import QUIET
from posttrain import artifacts


def ready() -> list[str]:
    """The artifacts of the topics that are ready."""
    topics = [topic for topic in syllabus.load().topics.values() if topic.ready]
    names = {f"{topic.part}.{topic.slug}" for topic in topics}
    return [name for name in artifacts.known() if name in names]


def build(preset: str) -> int:
    """Have all of `ready` built at `preset`; 0, or 1 where one failed (which is said).

    The others are built all the same.
    """
    os.environ |= QUIET  # before the first builder imports torch
    names, failed = ready(), 0
    if not names:
        print("artifacts: no ready topic has one")
    for name in names:
        before = times.process_seconds()
        try:
            artifacts.get(name, preset)
        except Exception:  # whatever a builder raises, the next one gets its turn
            failed += 1
            print(f"artifact {name} ({preset}) FAILED\n{traceback.format_exc()}")
            continue
        seconds = times.process_seconds() - before
        path = artifacts.path_of(name, preset)
        print(f"artifact {name} ({preset}): {seconds:.1f} CPU s, {path}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="ci")
    return build(parser.parse_args().preset)


if __name__ == "__main__":
    sys.exit(main())

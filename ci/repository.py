"""The repository's address. It stands in `_config.yml`; everything else follows it.

    python -m ci.repository                                  # print it
    python -m ci.repository https://github.com/me/fork       # move to another one
    python -m ci.repository https://github.com/me/fork --branch dev

Moving rewrites the address in `_config.yml`, README, workflows and pages, then writes
the generated cells and the exercises anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Repository:
    """Where the project lives: `url` without a trailing slash, and the branch."""

    url: str
    branch: str

    @property
    def name(self) -> str:
        """owner/repository"""
        return self.url.removeprefix("https://github.com/")

    def file(self, path: str) -> str:
        """The page of a file on the host."""
        return f"{self.url}/blob/{self.branch}/{path}"

    def colab(self, path: str) -> str:
        """The address that opens a notebook of the repository in Colab."""
        base = "https://colab.research.google.com/github"
        return f"{base}/{self.name}/blob/{self.branch}/{path}"

    @property
    def pip(self) -> str:
        """What pip installs the library from."""
        at = "" if self.branch == "main" else f"@{self.branch}"
        return f"git+{self.url}{at}"


def read(root: Path = ROOT) -> Repository:
    """The address in `_config.yml`. Raises ValueError where it is no GitHub address."""
    config = yaml.safe_load((root / "_config.yml").read_text())["repository"]
    url, branch = config["url"], config["branch"]
    if not ADDRESS.fullmatch(url):
        raise ValueError(
            f"_config.yml: repository.url is {url!r}; write it as "
            "https://github.com/OWNER/NAME, without a slash at the end"
        )
    return Repository(url, branch)


def move(new: Repository, root: Path = ROOT) -> list[Path]:
    """Rewrites every place that holds the present address; the files changed."""
    old = read(root)
    edges = [
        (f"github.com/{old.name}", f"github.com/{new.name}"),
        (f"github/{old.name}", f"github/{new.name}"),
    ]
    changed = []
    for path in _text_files(root):
        before = after = path.read_text()
        for a, b in edges:
            after = re.sub(re.escape(a) + r"(?![\w-])", b, after)
        if path.name == "_config.yml":
            after = re.sub(r"(?m)^(\s+branch:\s*)\S+", rf"\g<1>{new.branch}", after)
        if after != before:
            path.write_text(after)
            changed.append(path)
    return changed


def _text_files(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    kinds = {".yml", ".md", ".toml", ".ipynb"}
    paths = [root / name for name in listed if Path(name).suffix in kinds]
    return [path for path in paths if path.is_file()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help="https://github.com/OWNER/NAME")
    parser.add_argument("--branch", default=None)
    arguments = parser.parse_args()
    now = read()
    if arguments.url is None:
        print(f"{now.url} (branch {now.branch})")
        return 0
    if not ADDRESS.fullmatch(arguments.url):
        print(
            f"{arguments.url!r} is no address like https://github.com/OWNER/NAME",
            file=sys.stderr,
        )
        return 2
    changed = move(Repository(arguments.url, arguments.branch or now.branch))
    for path in changed:
        print(f"changed {path.relative_to(ROOT)}")
    for module in ("ci.format", "ci.exercises"):
        subprocess.run([sys.executable, "-m", module], cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

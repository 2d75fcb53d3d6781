"""Render the site: executed notebooks in, build/html out.

`prepare` lays everything that Sphinx reads under build/site, at the repository's own
paths; `render` runs Jupyter Book over it with warnings as errors and publishes the
pages to build/html. A render in which nothing changed costs only the look at the files.

    python -m ci.site
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml

from ci import curriculum_map, repository, sheets, syllabus

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ("_config.yml", "_toc.yml")
LOOK = (Path("book/static"), Path("book/templates"))
FRAGMENTS = Path("book/fragments")
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
FORMULA = re.compile(r"^\$\$(.+?)\$\$ *$", re.MULTILINE | re.DOTALL)
OUTERMOST = re.compile(r"\\begin\{(equation|align|gather|multline)\*?\}")
HIDDEN_TAGS = {"parameters", "injected-parameters"}
RENDERERS = ("jupyter-book", "sphinx", "sphinx-book-theme", "sphinx-mathjax-offline")


class SiteError(Exception):
    """What stops the site from being rendered, with the way to mend it."""


def prepare(root: Path, build: Path) -> Path:
    """Fill build/site with the sources of the site and return that folder.

    Chapters must be there already, executed. Only files whose content differs are
    written, so that Sphinx reads again what changed and nothing else.
    """
    site = build / "site"
    for name in CONFIGURATION:
        write(site / name, (root / name).read_bytes())
    for folder in LOOK:
        mirror(root / folder, site / folder)
    book = syllabus.load(root / "syllabus.yml")
    for name, text in fragments(book).items():
        write(site / FRAGMENTS / name, text.encode())
    for page in pages(root / "_toc.yml"):
        if page == Path("book/index"):
            source = (root / "book/index.md").read_text("utf-8")
            text = substitute(source, addresses(root))
            write(site / "book/index.md", text.encode())
        else:
            notebook = page.with_suffix(".ipynb")
            unexecuted = page.parts[0] == "exercises"
            source = root / notebook if unexecuted else site / notebook
            write(site / notebook, for_sphinx(source))
    for sheet in sheets.sheets(root):
        write(site / sheet.with_suffix(".pdf"), sheets.compiled(root / sheet))
    return site


def render(build: Path) -> Path:
    """Build the pages with warnings as errors; return the path of the entry page.

    A failed build throws Sphinx's cache away: a page that was read with a warning
    would otherwise count as done, and the next build would pass.
    """
    site, work, html = build / "site", build / "jupyter-book", build / "html"
    shell, everything = fingerprints(site)
    if recorded(work / "everything") == everything and (html / "index.html").exists():
        return html / "index.html"
    # Each page shows the look, the table of contents and the titles of the others, and
    # Sphinx keeps pages that are no longer listed: when these change, start afresh.
    if recorded(work / "shell") != shell:
        shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(site)]
    command += ["--path-output", str(work), "-W", "-n", "--keep-going", "-q"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        shutil.rmtree(work, ignore_errors=True)
        raise SiteError(f"The site has warnings or errors:\n\n{complaints(result)}")
    mirror(work / "_build/html", html)
    (work / "shell").write_text(shell)
    (work / "everything").write_text(everything)
    return html / "index.html"


def pages(toc: Path) -> list[Path]:
    """Every page of the table of contents in reading order, without its suffix."""
    content = yaml.safe_load(toc.read_text("utf-8"))

    def below(entry: dict) -> list[Path]:
        own = [Path(entry[key]) for key in ("root", "file") if key in entry]
        inner = [entry.get(key, []) for key in ("parts", "chapters", "sections")]
        return own + [page for group in inner for item in group for page in below(item)]

    return below(content)


def fragments(book: syllabus.Syllabus) -> dict[str, str]:
    """The generated parts of pages, by file name: HTML that book/index.md includes."""
    return {"curriculum-map.html": curriculum_map.html(book)}


def addresses(root: Path) -> dict[str, str]:
    """What book/index.md may name in double braces, from the repository's address."""
    home = repository.read(root)
    return {
        "repository": home.url,
        "folder": home.url.split("/")[-1],
        "colab": home.colab("").rstrip("/"),
    }


def substitute(text: str, values: dict[str, str]) -> str:
    """Put each value where the text names it as `{{ name }}`.

    Raises:
        SiteError: if the text names something that is not in `values`.
    """
    for name, value in values.items():
        text = text.replace("{{ " + name + " }}", value)
    if "{{" in text:
        unknown = text[text.index("{{") :].splitlines()[0][:60]
        known = ", ".join("{{ " + name + " }}" for name in values)
        raise SiteError(f"book/index.md names {unknown!r}; known: {known}")
    return text


def for_sphinx(path: Path) -> bytes:
    """The notebook at `path` as the site needs it; done twice, it stays the same.

    Cells with parameters are marked to be left off the page. A displayed formula with
    rows becomes an `equation*`: Sphinx would put `split` round it, where MathJax allows
    no `\\tag`.

    Raises:
        SiteError: if the notebook is not there or is not a notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise SiteError(
            f"{path} is in _toc.yml but was not built: run `make book`, or take the "
            "topic out of _toc.yml and set its status in syllabus.yml to `planned`."
        ) from None
    except nbformat.reader.NotJSONError:
        raise SiteError(f"{path} is not a notebook (not JSON): restore it.") from None
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if HIDDEN_TAGS.intersection(tags) and "remove-cell" not in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(frame_rows, cell.source)
    return nbformat.writes(notebook).encode()


def frame_rows(formula: re.Match) -> str:
    """A displayed formula, framed as `equation*` if it has rows (`\\\\`)."""
    body = formula[1].strip()
    if r"\\" not in body or OUTERMOST.match(body):
        return formula[0]
    return f"\\begin{{equation*}}\n{body}\n\\end{{equation*}}"


def write(path: Path, content: bytes) -> None:
    """Write `content` unless the file already holds exactly that."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def mirror(source: Path, target: Path) -> None:
    """Make the folder `target` equal to `source`, touching only what differs."""
    wanted = {path.relative_to(source) for path in files(source)}
    for path in files(target):
        if path.relative_to(target) not in wanted:
            path.unlink()
    for name in wanted:
        write(target / name, (source / name).read_bytes())


def files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted; none if it does not exist."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fingerprints(site: Path) -> tuple[str, str]:
    """Digests of what every page shares, and of everything that is rendered."""
    listed = pages(site / "_toc.yml")
    notebooks = [site / page.with_suffix(".ipynb") for page in listed]
    shared = [site / name for name in CONFIGURATION]
    shared += [path for folder in (*LOOK, FRAGMENTS) for path in files(site / folder)]
    releases = " ".join(f"{name}=={version(name)}" for name in RENDERERS)
    shell = hashlib.sha256(releases.encode())
    for path in shared:
        shell.update(f"\0{path.relative_to(site)}\0".encode() + path.read_bytes())
    everything = shell.copy()
    printed = sorted(site.glob("book/*/*.pdf"))
    for path in [site / "book/index.md", *filter(Path.exists, notebooks), *printed]:
        everything.update(f"\0{path.relative_to(site)}\0".encode() + path.read_bytes())
    return shell.hexdigest(), everything.hexdigest()


def recorded(stamp: Path) -> str | None:
    """The digest that the last good render left in `stamp`."""
    return stamp.read_text() if stamp.exists() else None


def complaints(result: subprocess.CompletedProcess) -> str:
    """The lines of Sphinx's output that name a warning or an error, or all of it."""
    output = (result.stdout + result.stderr).splitlines()
    named = [line for line in output if "WARNING" in line or "ERROR" in line]
    return "\n".join(named or output)


def main() -> int:
    """Prepare and render, and say which page to open."""
    build = ROOT / "build"
    try:
        prepare(ROOT, build)
        entry = render(build)
    except (SiteError, sheets.SheetError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The book is ready. Open {os.path.relpath(entry)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

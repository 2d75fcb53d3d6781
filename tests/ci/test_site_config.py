"""The configuration of the site, and how its sources are laid out and rendered."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ci import site, syllabus

ROOT = Path(site.__file__).resolve().parent.parent
STATIC = ROOT / "book/static"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
SPHINX = CONFIG["sphinx"]["config"]


def leaves(value):
    """Every string inside nested lists and dicts."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


# Configuration


def test_nothing_is_loaded_from_another_host():
    assert "sphinx-mathjax-offline" in SPHINX["extensions"]
    assert "sphinx_thebe" not in SPHINX["extensions"]
    assert SPHINX["nb_ipywidgets_js"] == {}
    assert CONFIG["launch_buttons"]["thebe"] is False
    assert (STATIC / SPHINX["html_js_files"][0]).is_file()
    remote = {leaf for leaf in leaves(CONFIG) if "://" in leaf}
    assert remote == {CONFIG["repository"]["url"], "https://colab.research.google.com"}


def test_launch_links_keep_the_paths_of_the_repository():
    assert CONFIG["repository"]["path_to_book"] == ""
    assert CONFIG["execute"]["execute_notebooks"] == "off"


def test_every_style_is_listed_and_local():
    listed = [STATIC / name for name in SPHINX["html_css_files"]]
    assert sorted(listed) == sorted((STATIC / "css").glob("*.css"))
    for path in [*listed, *STATIC.rglob("*.js"), *STATIC.rglob("*.svg")]:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "@import" not in text, path


def test_table_of_contents_lists_the_ready_topics_and_no_other():
    expected = [Path("book/index")]
    for topic in syllabus.load(ROOT / "syllabus.yml").topics.values():
        if topic.ready:
            expected.append(topic.chapter.with_suffix(""))
            if topic.graded:
                expected.append(topic.exercise.with_suffix(""))
    assert site.pages(ROOT / "_toc.yml") == expected


def test_landing_page_takes_the_address_from_the_configuration():
    text = (ROOT / "book/index.md").read_text("utf-8")
    values = site.addresses(ROOT)
    assert values["repository"] == CONFIG["repository"]["url"]
    assert values["repository"] not in text
    written = site.substitute(text, values)
    assert f"git clone {values['repository']}\n" in written
    exercise = re.search(r"\((https://colab[^)]*)\)", written)[1]
    path = exercise.removeprefix(values["colab"] + "/")
    assert path in [f"{page}.ipynb" for page in site.pages(ROOT / "_toc.yml")]


def test_an_unknown_name_in_braces_is_an_error():
    with pytest.raises(site.SiteError, match=r"\{\{ adress \}\}"):
        site.substitute("see {{ adress }}", {"repository": "x"})


# Colours


def tokens(mode):
    """The colour tokens of one mode as {name: "#rrggbb"}."""
    text = (STATIC / "css/tokens.css").read_text("utf-8")
    block = re.search(rf'html\[data-theme="{mode}"\] {{(.*?)}}', text, re.S)[1]
    return dict(re.findall(r"--([\w-]+): (#\w{6});", block))


def luminance(colour):
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
              for c in channels]  # fmt: skip
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """Contrast ratio of two colours, 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_colours_reach_wcag_aa_on_every_background(mode):
    colours = tokens(mode)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    texts = ["ink", "muted", "accent", "mark", "good", "bad"]
    pairs = [(t, b) for t in texts for b in ("paper", "surface", "raised")]
    pairs += [(name, "surface") for name in colours if name.startswith("code-")]
    pairs += [(name, f"{name}-soft") for name in ("accent", "mark", "good", "bad")]
    pairs += [("paper", "accent"), ("paper", "ink")]
    for text, ground in pairs:
        ratio = contrast(colours[text], colours[ground])
        assert ratio >= 4.5, f"{mode}: {text} on {ground} is {ratio:.2f} : 1"


# Laying out and rendering


def notebook(*cells):
    """A notebook of a Python kernel as text."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.writes(
        new_notebook(cells=[*cells], metadata={"kernelspec": kernel})
    )


ROWS = r"""$$a = b \tag{1}$$

$$\begin{bmatrix} a \\ b \end{bmatrix}
= c \tag{2} $$"""


@pytest.fixture
def small(tmp_path):
    """A repository with the real look, one chapter (executed) and one exercise."""
    root = tmp_path / "repository"
    for folder in site.LOOK:
        shutil.copytree(ROOT / folder, root / folder)
    for name in ("_config.yml", "_toc.yml", "book/index.md", "syllabus.yml"):
        shutil.copy(ROOT / name, root / name)
    for page in site.pages(ROOT / "_toc.yml")[1:]:
        base = root if page.parts[0] == "exercises" else root / "build/site"
        path = (base / page).with_suffix(".ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        tagged = new_code_cell('preset = "cpu"', metadata={"tags": ["parameters"]})
        title = new_markdown_cell(f"# {page.name}")
        path.write_text(notebook(title, tagged, new_markdown_cell(ROWS)))
    return root


def test_prepare_hides_parameters_and_writes_only_what_changed(small):
    folder = site.prepare(small, small / "build")
    for page in site.pages(small / "_toc.yml")[1:]:
        path = (folder / page).with_suffix(".ipynb")
        tags = nbformat.read(path, 4).cells[1].metadata.tags
        assert tags == ["parameters", "remove-cell"]
    before = {path: path.stat().st_mtime_ns for path in site.files(folder)}
    (small / "book/static/css/tokens.css").write_text("html { color: red }")
    (small / "book/static/css/icons.css").unlink()
    site.prepare(small, small / "build")
    after = {path: path.stat().st_mtime_ns for path in site.files(folder)}
    assert folder / "book/static/css/icons.css" not in after
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed == {"tokens.css"}


def test_a_formula_with_rows_keeps_its_number_on_the_page(small):
    framed = r"""$$a = b \tag{1}$$

\begin{equation*}
\begin{bmatrix} a \\ b \end{bmatrix}
= c \tag{2}
\end{equation*}"""
    for _ in range(2):
        folder = site.prepare(small, small / "build")
        for page in site.pages(small / "_toc.yml")[1:]:
            path = (folder / page).with_suffix(".ipynb")
            assert nbformat.read(path, 4).cells[2].source == framed


def test_a_chapter_that_was_not_built_is_named(small):
    chapter = site.pages(small / "_toc.yml")[1].with_suffix(".ipynb")
    (small / "build/site" / chapter).unlink()
    with pytest.raises(site.SiteError, match=f"{chapter} .* `make book`"):
        site.prepare(small, small / "build")


def test_a_page_that_is_not_a_notebook_is_named(small):
    chapter = site.pages(small / "_toc.yml")[1].with_suffix(".ipynb")
    (small / "build/site" / chapter).write_text("not json")
    with pytest.raises(site.SiteError, match=f"{chapter} is not a notebook"):
        site.prepare(small, small / "build")


def test_render_publishes_skips_what_is_done_and_refuses_warnings(small, monkeypatch):
    build = small / "build"
    site.prepare(small, build)
    entry = site.render(build)
    assert entry == build / "html/index.html"
    chapter = site.pages(small / "_toc.yml")[1]
    published = (build / "html" / chapter).with_suffix(".html")
    good = published.read_text("utf-8")
    assert "preset = " not in re.sub("<[^>]+>", "", good)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        assert site.render(build) == entry  # nothing changed, so Sphinx is not called

    source = (build / "site" / chapter).with_suffix(".ipynb")
    text = source.read_text("utf-8")
    source.write_text(text.replace(f"# {chapter.name}", "# A\\n\\n[no](none.ipynb)"))
    with pytest.raises(site.SiteError, match=r"none\.ipynb"):
        site.render(build)
    assert not (build / "jupyter-book").exists()  # no cache that hides the page
    assert published.read_text("utf-8") == good

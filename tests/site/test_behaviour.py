"""What a reader does with the book: enter, search, switch colours, use the keyboard."""

import pytest

GROUND = "() => getComputedStyle(document.body).backgroundColor"
THEME = "() => document.documentElement.dataset.theme"
CHAPTER = "book/foundations/attention"


@pytest.mark.parametrize("base", ["http", "file"])
def test_entry_leads_to_the_landing_page(book, base):
    page = book.browser.new_page()
    page.goto(book.bases[base] + "index.html")
    page.wait_for_url("**/book/index.html")
    assert page.locator("article h1").is_visible()
    page.close()


@pytest.mark.parametrize("base", ["http", "file"])
def test_search_finds_a_chapter(book, base):
    visit = book.open("search?q=softmax", base)
    results = visit.page.locator("#search-results li a")
    results.first.wait_for(timeout=10_000)
    found = [link.get_attribute("href") for link in results.all()]
    assert any(f"{CHAPTER}.html" in href for href in found)
    visit.page.wait_for_load_state("networkidle")
    assert visit.problems == []


def test_colours_can_be_switched_and_stay(book):
    visit = book.open(CHAPTER)
    assert visit.run(THEME) == "light"
    light = visit.run(GROUND)
    visit.page.locator(".bd-header-article .theme-switch-button").click()
    assert visit.run(THEME) == "dark"
    assert visit.run(GROUND) != light
    label = visit.page.locator(".theme-switch-button").first.get_attribute("aria-label")
    assert label == "Colour mode: dark"
    visit.page.reload()
    assert visit.run(THEME) == "dark"


def test_first_stop_of_the_keyboard_skips_to_the_text(book):
    page = book.open(CHAPTER).page
    page.keyboard.press("Tab")
    link = page.locator("#pst-skip-link a")
    assert link.evaluate("link => link === document.activeElement")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")


def test_focus_is_always_visible(book):
    page = book.open(CHAPTER).page
    for stop in range(25):
        page.keyboard.press("Tab")
        ring = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, parseFloat(s.outlineWidth),"
            " document.activeElement.outerHTML.slice(0, 100)]; }"
        )
        assert ring[0] == "solid" and ring[1] >= 2, f"stop {stop}: {ring[2]}"


@pytest.mark.parametrize("width", [1000, 1600, 2400])
def test_the_sidebar_can_be_folded_away(book, width):
    page = book.open(CHAPTER, width=width).page
    text = page.locator("main")
    assert text.bounding_box()["x"] > 200
    page.locator(".bd-header-article .primary-toggle").click()
    page.wait_for_timeout(400)  # the sidebar slides for 0.25 s
    assert text.bounding_box()["x"] == 0
    assert not page.locator(".search-button-field").is_visible()


def test_a_drill_opens_with_the_keyboard(book):
    page = book.open(CHAPTER).page
    drill = page.locator("article details:not(.hide)").first
    drill.locator("summary").focus()
    page.keyboard.press("Enter")
    assert drill.evaluate("drill => drill.open")


def test_the_attention_map_follows_the_pointer_and_the_arrow_keys(book):
    page = book.open(CHAPTER).page
    attention = page.locator(".attention-map").first
    tokens = attention.locator(".am-tokens span")
    said = attention.locator(".am-said")
    assert tokens.count() > 2
    tokens.nth(2).hover()
    assert "at position 2 looks at" in said.inner_text()
    assert tokens.nth(2).get_attribute("aria-pressed") == "true"
    tokens.nth(2).focus()
    page.keyboard.press("ArrowLeft")
    assert "at position 1 looks at" in said.inner_text()
    assert tokens.nth(1).evaluate("token => token === document.activeElement")


def test_a_wide_figure_can_be_scrolled_with_the_keyboard(book):
    page = book.open(CHAPTER, width=400).page
    figure = page.locator("figure.pt-figure").first
    assert figure.evaluate("box => box.scrollWidth > box.clientWidth")
    assert figure.get_attribute("tabindex") == "0"

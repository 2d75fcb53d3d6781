// What the theme leaves out. Loaded on every page, after documentation_options.js.

// A search result's summary is fetched from its page; browsers refuse that for
// pages opened from a folder, so results are then listed without a summary.
if (window.location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// Boxes that scroll sideways must be reachable with the keyboard; the theme sees to
// code and plain output.
const SCROLLING = "div.math, .table-scroll, figure.pt-figure";

function wrapTables() {
  for (const table of document.querySelectorAll("article.bd-article table")) {
    if (table.closest(".table-scroll, .attention-map, .highlight")) continue;
    const box = document.createElement("div");
    box.className = "table-scroll";
    table.replaceWith(box);
    box.append(table);
  }
}

// A browser may break a line between a formula and the comma or bracket beside it.
function keepPunctuation() {
  for (const formula of document.querySelectorAll("article.bd-article span.math")) {
    const [before, after] = [formula.previousSibling, formula.nextSibling];
    const text = (node) => (node?.nodeType === Node.TEXT_NODE ? node.data : "");
    const open = text(before).match(/[(\[“]$/)?.[0] ?? "";
    const close = text(after).match(/^[^\s\w]{1,3}/)?.[0] ?? "";
    if (!open && !close) continue;
    if (open) before.data = before.data.slice(0, -open.length);
    if (close) after.data = after.data.slice(close.length);
    const whole = document.createElement("span");
    whole.className = "keep";
    formula.replaceWith(whole);
    whole.append(open, formula, close);
  }
}

function makeScrollable() {
  for (const box of document.querySelectorAll(SCROLLING)) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// The theme's colour button says neither what it is set to nor that it changed.
function nameColourMode() {
  const mode = document.documentElement.dataset.mode || "auto";
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    button.setAttribute("aria-label", `Colour mode: ${mode}`);
  }
}

// Copy buttons are bare icons.
function nameCopyButtons() {
  for (const button of document.querySelectorAll("button.copybtn")) {
    button.setAttribute("aria-label", "Copy this code");
  }
}

document.addEventListener("DOMContentLoaded", () => {
  wrapTables();
  keepPunctuation();
  nameColourMode();
  new MutationObserver(nameColourMode).observe(document.documentElement, {
    attributeFilter: ["data-mode"],
  });
});
window.addEventListener("load", () => {
  nameCopyButtons();
  makeScrollable();
});
window.addEventListener("resize", makeScrollable);

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

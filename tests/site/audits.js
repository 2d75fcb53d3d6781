// Questions that tests/site asks a page. Loaded into the page by the `audits` fixture.

window.audits = {
  // Headings of the text as [level, text]; the theme's print-only copy is outside it.
  headings() {
    return [...document.querySelectorAll("article.bd-article :is(h1,h2,h3,h4,h5,h6)")].map(
      (heading) => [Number(heading.tagName[1]), heading.textContent.trim()],
    );
  },

  // Pictures without a name for those who cannot see them.
  nameless() {
    const images = [...document.querySelectorAll("article img")].filter(
      (image) => !image.alt.trim(),
    );
    const drawings = [...document.querySelectorAll("article svg")].filter(
      (svg) =>
        !svg.closest('[aria-hidden="true"]') &&
        !svg.closest("[aria-label]") &&
        !svg.closest("mjx-container"),
    );
    return [...images, ...drawings].map((each) => each.outerHTML.slice(0, 120));
  },

  // What makes the page itself scroll sideways.
  wider() {
    const { scrollWidth, clientWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return [];
    const out = [...document.querySelectorAll("body *")].filter(
      (each) => each.getBoundingClientRect().right > clientWidth + 1,
    );
    return [`${scrollWidth} px`, ...out.slice(0, 5).map((e) => e.outerHTML.slice(0, 90))];
  },

  // Blocks of code of at most 80 columns that do not fit into their box.
  clipped() {
    return [...document.querySelectorAll("article pre")]
      .filter((pre) => pre.offsetParent && !pre.closest(".home-step, details:not([open])"))
      .filter((pre) => Math.max(...pre.innerText.split("\n").map((l) => l.length)) <= 80)
      .filter((pre) => pre.scrollWidth > pre.clientWidth)
      .map((pre) => pre.innerText.slice(0, 80));
  },

  // Formulas that MathJax left as they were, or could not read.
  untypeset() {
    const formulas = [...document.querySelectorAll("article .math")];
    const raw = formulas.filter((formula) => !formula.querySelector("mjx-container"));
    const bad = [...document.querySelectorAll("mjx-merror")];
    return { formulas: formulas.length, left: [...raw, ...bad].map((e) => e.textContent) };
  },

  // Texts whose contrast with what lies behind them is below WCAG AA.
  faint() {
    const parse = (colour) => {
      const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
      return { r, g, b, a };
    };
    const channel = (value) => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    };
    const luminance = ({ r, g, b }) =>
      0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const over = (top, below) => ({
      r: top.r * top.a + below.r * (1 - top.a),
      g: top.g * top.a + below.g * (1 - top.a),
      b: top.b * top.a + below.b * (1 - top.a),
      a: 1,
    });
    const ground = (element) => {
      const layers = [];
      for (let each = element; each; each = each.parentElement) {
        const layer = parse(getComputedStyle(each).backgroundColor);
        layers.push(layer);
        if (layer.a === 1) break;
      }
      const base = { r: 255, g: 255, b: 255, a: 1 };
      return layers.reduceRight((below, layer) => over(layer, below), base);
    };
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || element.closest("svg, script, style")) continue;
      const style = getComputedStyle(element);
      if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const behind = ground(element);
      const colour = over(parse(style.color), behind);
      const [low, high] = [luminance(colour), luminance(behind)].sort((x, y) => x - y);
      const ratio = (high + 0.05) / (low + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      if (ratio < (large ? 3 : 4.5)) {
        found.add(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${element.textContent.trim().slice(0, 40)}`);
      }
    }
    return [...found];
  },
};

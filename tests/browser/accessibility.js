// Returns what a page withholds from people who do not see it, or hardly see it: one line for each
// fault. WCAG 2.2 level AA where a script can tell: 1.1.1, 1.3.1, 1.4.3, 2.4.2, 2.5.8, 3.1.1, 4.1.2.
() => {
  const SMALLEST_TARGET = 24; // CSS pixels (2.5.8)
  const faults = [];
  const fault = (what, element) => faults.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const isShown = (element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    element.getClientRects().length > 0;
  const textOf = (ids) =>
    ids.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();

  const nameOf = (element) =>
    (element.getAttribute("aria-labelledby") && textOf(element.getAttribute("aria-labelledby"))) ||
    element.getAttribute("aria-label")?.trim() ||
    [...(element.labels ?? [])].map((label) => label.textContent.trim()).join(" ") ||
    (element.matches("a, button, summary") && element.textContent.trim()) ||
    element.querySelector("img[alt], svg[aria-label]")?.getAttribute("alt") ||
    element.getAttribute("title");

  // --- names and structure ---
  if (!document.documentElement.lang) faults.push("the page does not say its language");
  if (!document.title.trim()) faults.push("the page has no title");
  if (all("main").length !== 1) faults.push(`${all("main").length} main elements`);
  if (all("h1").filter(isShown).length !== 1) faults.push("there must be one h1");

  all("input:not([type=hidden]), select, textarea, progress, meter, button, a[href], summary")
    .filter(isShown)
    .filter((element) => !nameOf(element))
    .forEach((element) => fault("without a name", element));
  all("img:not([alt])").forEach((element) => fault("picture without alt", element));
  all("svg")
    .filter((element) => !element.closest("[aria-hidden=true]") && !element.hasAttribute("aria-label"))
    .filter((element) => !element.querySelector("title") && isShown(element))
    .forEach((element) => fault("drawing without a name", element));
  all("table").forEach((table) => {
    if (!table.querySelector("th")) fault("table without headers", table);
    table.querySelectorAll("th:not([scope])").forEach((th) => fault("header without scope", th));
    table.querySelectorAll("th").forEach((th) => th.textContent.trim() || fault("empty header", th));
  });
  let level = 0;
  all("h1, h2, h3, h4, h5, h6").filter(isShown).forEach((heading) => {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) fault(`h${now} after h${level}`, heading);
    level = now;
  });

  // --- references ---
  const seen = new Set();
  all("[id]").forEach((element) => {
    if (seen.has(element.id)) fault("id is not unique", element);
    seen.add(element.id);
  });
  for (const attribute of ["for", "aria-labelledby", "aria-describedby", "aria-controls"]) {
    all(`[${attribute}]`).forEach((element) =>
      element.getAttribute(attribute).split(/\s+/)
        .filter((id) => !document.getElementById(id))
        .forEach((id) => fault(`${attribute} names ${id}, which is not there`, element)));
  }

  // --- targets ---
  all("button, input:not([type=hidden]):not([type=checkbox]):not([type=radio]), select, summary")
    .filter(isShown)
    .filter((element) => element.getBoundingClientRect().height < SMALLEST_TARGET)
    .forEach((element) => fault("too small to hit", element));

  // --- contrast: whatever notation a style uses, a canvas says what it is on the screen ---
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const mix = (colours) => {
    brush.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      brush.fillStyle = colour;
      brush.fillRect(0, 0, 1, 1);
    }
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [red, green, blue] = rgb
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    const scheme = getComputedStyle(document.documentElement).colorScheme;
    const paper = scheme.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches
      ? "#121212" : "#ffffff";
    return [paper, ...layers];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || judged.has(element) || !isShown(element)) continue;
    if (element.closest("script, style, option, :disabled, svg")) continue;
    judged.add(element);
    const style = getComputedStyle(element);
    const background = behind(element);
    const tones = [luminance(mix(background)), luminance(mix([...background, style.color]))];
    const ratio = (Math.max(...tones) + 0.05) / (Math.min(...tones) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) fault(`contrast ${ratio.toFixed(2)}`, element);
  }
  return faults;
}

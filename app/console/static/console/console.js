// What the pages do besides htmx: copy commands, say in words what changed, and admit when what is
// shown is old. Everything else works without it.
"use strict";

(() => {
  const announcer = document.getElementById("announcer");
  const stale = document.getElementById("stale");
  const said = new Map();

  // A screen reader hears a sentence when it changed, not each time that a table is drawn anew.
  function announce(isFirst) {
    const news = [];
    for (const element of document.querySelectorAll("[data-announce]")) {
      const sentence = element.dataset.announce;
      if (!isFirst && said.get(element.id) !== sentence) news.push(sentence);
      said.set(element.id, sentence);
    }
    if (news.length) announcer.textContent = news.slice(0, 3).join(". ");
  }

  function admit(isStale) {
    stale.hidden = !isStale;
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Browsers allow it on secure origins only: mark the text, so that a key copies it.
      getSelection().selectAllChildren(source);
      button.textContent = "Marked: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = before; }, 2000);
  }

  function checkSize(input) {
    const file = input.files[0];
    const megabytes = input.dataset.largest / 1048576;
    const isTooLarge = file && file.size > input.dataset.largest;
    input.setCustomValidity(isTooLarge ? `At most ${megabytes} MB, please.` : "");
    if (isTooLarge) input.reportValidity();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("input[type=file][data-largest]")) checkSize(event.target);
  });
  document.addEventListener("htmx:afterSettle", () => announce(false));
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (event.target.closest("[data-watched]")) admit(true);
    });
  }
  document.addEventListener("htmx:afterOnLoad", (event) => {
    if (event.detail.xhr.status < 400) admit(false);
  });

  announce(true);
  document.querySelector("[role=alert][tabindex]")?.focus();
})();

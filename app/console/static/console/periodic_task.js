// On the admin's page of a periodic task: say the chosen crontab in words.
"use strict";

(() => {
  const words = JSON.parse(document.getElementById("readable-crontabs")?.textContent || "{}");
  const field = document.querySelector(".field-crontab");
  const help = field?.querySelector(".help");
  if (!help) return;
  const hint = help.textContent.trim();
  const line = document.querySelector(".field-crontab_translation");
  if (line) line.hidden = true;

  function translate() {
    const chosen = words[document.getElementById("id_crontab").value];
    help.textContent = chosen ? `${hint} Translation: ${chosen}` : hint;
  }

  // Select boxes of the admin tell jQuery only.
  django.jQuery(field).on("change", translate);
})();

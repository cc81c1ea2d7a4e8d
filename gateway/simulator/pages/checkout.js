// What the page does beyond plain forms: no second click, tidy card numbers, and the news from the bank.
"use strict";

const sheet = document.querySelector(".sheet");

/** A form is sent once; a page that the browser kept and shows again may be used again. */
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.getAttribute("aria-busy") === "true") return event.preventDefault();
    form.setAttribute("aria-busy", "true");
  });
  addEventListener("pageshow", () => form.removeAttribute("aria-busy"));
}

const digits = (text) => text.replace(/\D/g, "");
const tidy = {
  card_number: (text) => digits(text).slice(0, 19).replace(/(.{4})(?=.)/g, "$1 "),
  card_expiry: (text) => digits(text).slice(0, 4).replace(/^(..)(.)/, "$1 / $2"),
  card_cvv: (text) => digits(text).slice(0, 4),
};
for (const [id, shape] of Object.entries(tidy)) {
  const input = document.getElementById(id);
  input?.addEventListener("input", () => {
    if (input.selectionStart === input.value.length) input.value = shape(input.value);
  });
}

/** The first wrong field, else the headline that a screen reader should say. */
(document.querySelector(".field.bad input") ?? document.querySelector("h1[tabindex]"))?.focus();

/** While the bank thinks: ask how the attempt stands, and show the page again once it has ended. */
async function listen() {
  for (;;) {
    await new Promise((after) => setTimeout(after, 1000));
    try {
      const answer = await fetch(`${location.pathname}/status${location.search}`, { cache: "no-store" });
      if (answer.ok && (await answer.json()).status !== "PENDING") return location.reload();
    } catch {
      // The connection is away for a moment; the next second asks again.
    }
  }
}
if (sheet.dataset.state === "waiting") listen();

// The reference page reads well without this: search, theme, copy, and where one is.
const root = document.documentElement;
const nav = document.getElementById("contents");
const search = document.getElementById("search");
const links = [...nav.querySelectorAll("li a")];

const kept = localStorage.getItem("theme");
if (kept) root.dataset.theme = kept;
document.getElementById("theme").addEventListener("click", () => {
  const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
document.getElementById("menu").addEventListener("click", () => nav.classList.toggle("open"));
nav.addEventListener("click", (event) => event.target.closest("a") && nav.classList.remove("open"));

// Words of the title, the path, the fields and the error codes of each operation.
const words = new Map(links.map((link) => {
  const target = document.getElementById(link.hash.slice(1));
  const codes = target?.matches("article") ? [...target.querySelectorAll("dt code, td code")].map((code) => code.textContent).join(" ") : "";
  return [link, `${link.textContent} ${link.title} ${codes}`.toLowerCase()];
}));
search.addEventListener("input", () => {
  const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const link of links) {
    const fits = asked.every((word) => words.get(link).includes(word));
    link.parentElement.hidden = !fits;
    found += fits;
  }
  for (const list of nav.querySelectorAll("ul")) {
    list.hidden = list.previousElementSibling.hidden = ![...list.children].some((item) => !item.hidden);
  }
  nav.querySelector(".none").hidden = found > 0;
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && document.activeElement === search) {
    search.value = "";
    search.dispatchEvent(new Event("input"));
    search.blur();
  } else if (event.key === "Enter" && document.activeElement === search) {
    links.find((link) => !link.parentElement.hidden)?.click();
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.closest(".card").querySelector("pre").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

const byId = new Map(links.map((link) => [link.hash.slice(1), link]));
const places = [...byId.keys()].map((id) => document.getElementById(id)).filter(Boolean)
  .sort((a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
let current = null;
function mark() {
  let at = places[0];
  for (const place of places) {
    if (place.getBoundingClientRect().top > 130) break;
    at = place;
  }
  const link = byId.get(at.id);
  if (link === current) return;
  current?.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  current = link;
  const box = link.getBoundingClientRect();
  const frame = nav.getBoundingClientRect();
  if (box.top < frame.top + 60 || box.bottom > frame.bottom - 40) nav.scrollTop += box.top - frame.top - frame.height / 3;
}
let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });
mark();

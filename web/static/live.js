// One stream of snapshots from /v1/live; every second the whole page is told anew.
"use strict";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en-IN");
const rupees = new Intl.NumberFormat("en-IN", { style: "currency", currency: "INR", maximumFractionDigits: 0 });
const money = (paise) => rupees.format(paise / 100);

const charts = {
  money: new TimeChart("money-chart", [{ label: "Money in", colour: "accent", kind: "bars" }], { format: (v) => "₹" + short(v), exact: (v) => rupees.format(v) }),
  payments: new TimeChart("payments-chart", [{ label: "Failures", colour: "bad", kind: "bars" }, { label: "Credited", colour: "good", kind: "bars" }], { format: short, exact: (v) => count.format(v), stacked: true }),
  credits: new TimeChart("credits-chart", [{ label: "Granted", colour: "accent", kind: "area" }, { label: "Spent", colour: "second", kind: "area" }], { format: short, exact: (v) => count.format(v) }),
};

function el(tag, text = "", cls = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (cls) made.className = cls;
  return made;
}

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function tiles({ today, ended, series }) {
  say("money-today", money(today.money_in_paise));
  say("money-note", `${count.format(today.credited)} payments credited`);
  say("granted-today", count.format(today.credits_granted));
  say("granted-note", `${count.format(series.credits_granted.at(-2))} in the last full minute`);
  say("spent-today", count.format(today.credits_spent));
  say("spent-note", `${money(today.revenue_paise)} of revenue recognised`);
  const all = ended.credited + ended.failed;
  const rate = all ? (100 * ended.credited) / all : 0;
  const held = ended.held ? ` · ${count.format(ended.held)} held` : "";
  say("success", all ? `${rate.toFixed(1)} %` : "–");
  say("success-note", all ? `${count.format(ended.credited)} of the last ${count.format(all)} that ended${held}` : "no payment has ended yet");
  $("success-meter").style.width = `${rate}%`;
  $("success-meter").parentElement.classList.toggle("empty", !all);
}

let view = sessionStorage.getItem("view");
let last = null;

/** A core that has run for less than ten minutes is better seen by the second. */
function draw({ series, pulse }) {
  view ??= series.credits_spent.filter(Boolean).length + series.credits_granted.filter(Boolean).length < 20 ? "live" : "hour";
  const live = view === "live";
  const lines = live ? pulse : series;
  const starts = live ? pulse.steps : series.minutes;
  charts.money.set(starts, [lines.money_in_paise.map((p) => p / 100)]);
  charts.payments.set(starts, [lines.failed, lines.credited]);
  // The open step would always look like a fall: lines end at the last full one.
  const full = (line) => line.slice(0, -1);
  charts.credits.set(full(starts), [full(lines.credits_granted), full(lines.credits_spent)]);
  $("money-now").replaceChildren("this minute ", el("b", money(series.money_in_paise.at(-1))));
  for (const span of document.querySelectorAll(".span")) span.textContent = (span.dataset.of || "") + (live ? "per 5 s, last 5 minutes" : "per minute, last hour");
  for (const button of document.querySelectorAll("#views button")) button.setAttribute("aria-pressed", String(button.value === view));
}

for (const button of document.querySelectorAll("#views button"))
  button.addEventListener("click", () => {
    sessionStorage.setItem("view", (view = button.value));
    if (last) draw(last);
  });

function features(list) {
  const most = Math.max(1, ...list.map((f) => f.credits));
  const rows = list.map((f) => {
    const row = el("div");
    const bar = el("i");
    bar.style.setProperty("--share", `${(100 * f.credits) / most}%`);
    row.append(el("span", f.name), el("span", count.format(f.credits)), bar);
    return row;
  });
  $("features").replaceChildren(...(rows.length ? rows : [el("p", "No credits spent today")]));
}

/** Credits that were granted; what was not paid has granted none. */
const granted = (p) => (p.status === "credited" || p.status === "refunded" ? count.format(p.credits) : "–");

let seen = null;
function payments(list) {
  const rows = list.map((p) => {
    const row = el("tr", "", seen && !seen.has(p.id) ? "fresh" : "");
    const status = el("td");
    status.append(el("span", p.status, `status ${p.status}`));
    row.append(el("td", money(p.amount_paise)), status, el("td", p.customer, "opt"), el("td", (p.method || "–").replaceAll("_", " "), "opt"),
      el("td", granted(p), "num"), el("td", p.score == null ? "–" : String(p.score), `num opt ${p.score >= 50 ? "risky" : ""}`),
      el("td", p.done_ms == null ? "–" : p.done_ms < 10000 ? `${count.format(p.done_ms)} ms` : `${Math.round(p.done_ms / 1000)} s`, "num"),
      el("td", second.format(new Date(p.created_at)), "num"));
    return row;
  });
  seen = new Set(list.map((p) => p.id));
  $("payments").replaceChildren(...(rows.length ? rows : [none(8, "Waiting for the first payment")]));
}

function none(columns, text) {
  const row = el("tr", "", "none");
  const cell = el("td", text);
  cell.colSpan = columns;
  row.append(cell);
  return row;
}

const age = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : s < 100 ? `${s.toFixed(1)} s` : `${Math.round(s / 60)} min`);
function topics(list) {
  $("topics").replaceChildren(...list.map((t) => {
    const state = !t.consumed ? "idle" : t.oldest_s > 30 ? "late" : t.oldest_s > 2 ? "behind" : "";
    const row = el("tr", "", state);
    if (!t.consumed) row.title = "nobody consumes this topic";
    row.append(el("td", t.name), el("td", t.per_s ? count.format(t.per_s) : "–", "num"),
      el("td", t.backlog ? count.format(t.backlog) : "0", "num"), el("td", t.backlog ? age(t.oldest_s) : "–", "num"));
    return row;
  }));
}

const NAMES = { verifications_due: "verifications due", fraud_checks_open: "fraud checks open", retries_due: "retries due", retries_dead: "retries dead", quarantined: "quarantined", holds_open: "holds open", cases_open: "cases open" };
const ALERTS = new Set(["retries_dead", "cases_open"]);
function chips(workers, waiting) {
  const chip = (name, value, alert) => {
    const made = el("span", name, alert ? "chip alert" : "chip");
    made.append(el("b", value));
    return made;
  };
  $("workers").replaceChildren(...(workers.length ? workers.map((w) => chip(w.name, `${w.partitions} partitions`)) : [chip("workers", "none", true)]));
  $("waiting").replaceChildren(...Object.entries(NAMES).map(([key, name]) => chip(name, count.format(waiting[key] ?? 0), ALERTS.has(key) && waiting[key] > 0)));
}

function alive(on, word, trouble = "") {
  $("live").classList.toggle("off", !on);
  say("live", "");
  $("live").replaceChildren(el("i"), el("b", word));
  $("trouble").hidden = !trouble;
  say("trouble", trouble);
}

function show(snapshot) {
  if (snapshot.error) return alive(false, "Waiting", snapshot.error === "database_unavailable" ? "The database cannot be reached. Events wait in the streams; nothing is lost." : "The server could not make a snapshot; its log says why.");
  if ($("live").classList.contains("off")) alive(true, "Live");
  say("clock", `${second.format(new Date(snapshot.at))} IST`);
  tiles(snapshot);
  draw((last = snapshot));
  features(snapshot.today.features);
  payments(snapshot.payments);
  topics(snapshot.topics);
  chips(snapshot.workers, snapshot.waiting);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  for (const chart of Object.values(charts)) chart.draw();
}

const wish = new URLSearchParams(location.search).get("theme") || localStorage.getItem("theme");
theme(wish || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  theme(next);
});

const stream = new EventSource("/v1/live");
stream.onmessage = (event) => show(JSON.parse(event.data));
stream.onerror = () => alive(false, "Reconnecting");

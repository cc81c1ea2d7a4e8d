// Charts on uPlot over equal steps of time: bars, stacked bars, areas; colours from the theme, a tooltip, as wide as their card.
"use strict";

const IST = "Asia/Kolkata";
const second = new Intl.DateTimeFormat("en-GB", { timeZone: IST, hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock = new Intl.DateTimeFormat("en-GB", { timeZone: IST, hour: "2-digit", minute: "2-digit" });
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** 1234567 -> "12.3L", as India counts. */
function short(n) {
  for (const [size, unit] of [[1e7, "Cr"], [1e5, "L"], [1e3, "K"]])
    if (Math.abs(n) >= size) return (n / size).toFixed(n / size < 10 ? 1 : 0).replace(/\.0$/, "") + unit;
  return String(Math.round(n * 100) / 100);
}

function fade(colour) {
  return (u) => {
    const down = u.ctx.createLinearGradient(0, u.bbox.top, 0, u.bbox.top + u.bbox.height);
    down.addColorStop(0, `color-mix(in srgb, ${colour} 26%, transparent)`);
    down.addColorStop(1, `color-mix(in srgb, ${colour} 1%, transparent)`);
    return down;
  };
}

function tooltip(say) {
  const tip = document.createElement("div");
  tip.className = "tip";
  return {
    hooks: {
      init: (u) => u.over.appendChild(tip),
      setCursor: (u) => {
        const at = u.cursor.idx;
        const on = at != null && u.cursor.left >= 0;
        tip.classList.toggle("on", on);
        if (!on) return;
        tip.replaceChildren(...say(u, at).flatMap((line) => [line, document.createElement("br")]).slice(0, -1));
        const x = u.valToPos(u.data[0][at], "x");
        const left = x > u.over.clientWidth / 2 ? x - tip.offsetWidth - 12 : x + 12;
        tip.style.transform = `translate(${Math.max(0, left)}px, 6px)`;
      },
    },
  };
}

/** lines: [{label, colour, kind: "bars" | "area" | "line"}]; stacked bars are given as running sums, the highest first. */
class TimeChart {
  constructor(id, lines, { format, exact, stacked = false }) {
    Object.assign(this, { box: document.getElementById(id), lines, format, exact, stacked, data: null, plot: null });
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(this.box);
  }

  step() {
    return this.data[0][1] - this.data[0][0];
  }

  size() {
    return { width: this.box.clientWidth - 16, height: this.box.clientHeight - 8 };
  }

  set(starts, values) {
    this.values = values;
    const shown = this.stacked ? values.map((_, i) => starts.map((_, m) => values.slice(i).reduce((s, v) => s + v[m], 0))) : values;
    this.data = [starts, ...shown];
    if (this.plot) this.plot.setData(this.data);
    else this.draw();
  }

  draw() {
    if (this.plot) this.plot.destroy();
    if (!this.data) return;
    const bars = this.lines.some((line) => line.kind === "bars");
    const axis = { stroke: ink("faint"), font: "11px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: ink("grid"), width: 1 } };
    this.plot = new uPlot({
      ...this.size(),
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: !bars, size: 7 }, drag: { x: false, y: false } },
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), IST),
      scales: { x: { time: true, range: (u, first, last) => { const half = bars ? 0.6 * this.step() : 0; return [first - half, last + half]; } }, y: { range: (u, low, high) => [0, Math.max(high * 1.12, 8)] } },
      axes: [
        { ...axis, size: 26, gap: 6, incrs: [60, 120, 300, 600, 900, 1800], grid: { show: false }, values: (u, ts) => ts.map((t) => clock.format(t * 1e3)), space: 64 },
        { ...axis, size: 52, incrs: [1, 2, 5].flatMap((n) => [...Array(12).keys()].map((e) => n * 10 ** e)).sort((a, b) => a - b), values: (u, vs) => vs.map(this.format), space: 40 },
      ],
      series: [{}, ...this.lines.map((line) => this.series(line))],
      plugins: [tooltip((u, at) => this.say(u, at))],
    }, this.data, this.box);
  }

  series({ colour, kind }) {
    const stroke = ink(colour);
    if (kind === "bars")
      return { stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.66, 18, 2], radius: this.stacked ? 0 : [0.25, 0] }) };
    return { stroke, width: 2, fill: kind === "area" ? fade(stroke) : undefined, points: { show: false }, paths: uPlot.paths.spline() };
  }

  say(u, at) {
    const head = document.createElement("b");
    head.textContent = (this.step() < 60 ? second : clock).format(u.data[0][at] * 1e3);
    return [head, ...this.lines.map((line, i) => `${line.label} ${this.exact(this.values[i][at])}`)];
  }
}

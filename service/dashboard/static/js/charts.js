// Charts with uPlot: quiet lines, shared cursor, alert spans behind, thresholds across. Colours are the style sheet's.

import { colour, el, onSchemeChange, setText } from "./dom.js";

const DAY = 86400;
const ticks = { hour: "2-digit", minute: "2-digit" };
const hours = new Intl.DateTimeFormat(undefined, ticks);
const days = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

// One chart in a card. `series`: [{label, colour, kind: "line"|"area"|"upper"|"lower", width, dash}], x in seconds.
export class Chart {
  constructor({ heading, unit = "", series, height, sync = null, format, lines = () => [], spans = () => [], range = null, describe }) {
    Object.assign(this, { series, height: height === "fill" ? null : height ?? 150, sync, format, lines, spans, range, describe, unit });
    this.readout = el("span", { class: "readout" });
    this.box = el("div", { class: "plot", role: "img", "aria-label": heading });
    this.element = el("figure", { class: "chart card" }, el("figcaption", {}, el("span", {}, heading, unit ? el("small", {}, ` ${unit}`) : null), this.readout), this.box);
    this.heading = heading;
    this.columns = null;
    this.x = null;
    this.observer = new ResizeObserver(() => this.plot && this.plot.setSize(this.size()));
    this.observer.observe(this.box);
    this.off = onSchemeChange(() => this.rebuild());
  }

  close() {
    this.off();
    this.observer.disconnect();
    this.plot?.destroy();
  }

  size() {
    return { width: Math.max(160, this.box.clientWidth), height: this.height ?? Math.max(200, this.box.clientHeight) };
  }

  // columns: [xs, ...one per series]; x: [from, to] in seconds.
  show(columns, x) {
    this.columns = columns;
    this.x = x;
    if (!this.plot) this.rebuild();
    else {
      this.plot.batch(() => {
        this.plot.setData(columns, false);
        this.plot.setScale("x", { min: x[0], max: x[1] });
      });
    }
    this.tell(null);
  }

  tell(i) {
    const [xs, ...rest] = this.columns;
    let at = i;
    if (at === null || at === undefined) for (at = xs.length - 1; at > 0 && rest[0][at] === null;) at -= 1;
    const text = this.format(rest.map((column) => column[at]), at);
    setText(this.readout, i === null || i === undefined ? text : `${hours.format(1000 * xs[i])}  ${text}`);
    if (i === null || i === undefined) this.box.setAttribute("aria-label", `${this.heading}: ${this.describe ? this.describe(this.columns) : text}`);
  }

  rebuild() {
    if (!this.columns) return;
    this.plot?.destroy();
    const muted = colour("muted"), grid = colour("line");
    const axis = { stroke: muted, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const options = {
      ...this.size(),
      padding: [8, 22, 0, 0], // half a label of time fits beside the last instant
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, ...(this.sync ? { sync: { key: this.sync } } : {}) },
      scales: { x: { time: true, range: () => this.x }, y: { range: (_, min, max) => this.yRange(min, max) } },
      axes: [
        { ...axis, size: 26, space: 70, values: (_, at) => times(at) },
        { ...axis, size: 46, space: 34, values: (_, at) => at.map((y) => this.format.axis ? this.format.axis(y) : y) },
      ],
      series: [{}, ...this.series.map((one) => line(one))],
      bands: this.series.flatMap((one, i) => (one.kind === "upper" ? [{ series: [i + 1, i + 2], fill: alpha(one.colour, 0.16) }] : [])),
      hooks: { drawClear: [(plot) => this.shade(plot)], draw: [(plot) => this.rule(plot)], setCursor: [(plot) => this.tell(plot.cursor.idx)] },
    };
    this.plot = new uPlot(options, this.columns, this.box); // eslint-disable-line no-undef
  }

  yRange(min, max) {
    if (this.range) return typeof this.range === "function" ? this.range(min, max) : this.range;
    if (min === null || max === null) return [0, 1];
    const room = Math.max((max - min) * 0.12, Math.abs(max) * 0.02, 1e-6);
    return [min - room, max + room];
  }

  shade({ ctx, bbox, valToPos }) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const span of this.spans()) {
      const left = valToPos(span.from, "x", true), right = valToPos(span.to, "x", true);
      ctx.fillStyle = alpha(span.colour, 0.13);
      ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    }
    ctx.restore();
  }

  rule({ ctx, bbox, valToPos }) {
    ctx.save();
    for (const one of this.lines()) {
      const y = Math.round(valToPos(one.at, "y", true)) + 0.5;
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.strokeStyle = colour(one.colour);
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.fillStyle = colour(one.colour);
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      ctx.textBaseline = "bottom";
      ctx.fillText(one.label, bbox.left + 4 * devicePixelRatio, y - 2 * devicePixelRatio);
    }
    ctx.restore();
  }
}

const localDay = (x) => Math.floor((x - new Date(1000 * x).getTimezoneOffset() * 60) / DAY);

// Labels of instants: the hour, and the day where a new one begins; also first, where all are of one day that is not today.
function times(at) {
  const past = localDay(at[0]) === localDay(at.at(-1)) && localDay(at[0]) !== localDay(Date.now() / 1000);
  return at.map((x, i) => ((i === 0 && past) || localDay(i ? at[i - 1] : x - 1) !== localDay(x) ? days : hours).format(1000 * x));
}

function line(one) {
  const base = { stroke: colour(one.colour), width: one.width ?? 1.5, points: { show: Boolean(one.dots), size: 3.5, fill: colour(one.colour) }, spanGaps: false };
  if (one.kind === "area") return { ...base, width: 0, fill: alpha(one.colour, 0.22) };
  if (one.kind === "upper" || one.kind === "lower") return { ...base, width: 0, stroke: "transparent" };
  return { ...base, dash: one.dash };
}

export function alpha(name, share) {
  const hex = colour(name).replace("#", "");
  const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${share})`;
}


// One vehicle: where it stands, why, and its last 48 hours.

import { alertCard } from "./alert_card.js";
import { get, Problem } from "./api.js";
import { Chart } from "./charts.js";
import { el, redraw, setText } from "./dom.js";
import { ago, exactly, number, percent, quantity, span, title, unit } from "./format.js";
import { data, every, isOpen, on, statusOf } from "./live.js";
import { Trace } from "./trace.js";
import { Trend } from "./trend.js";

const RANGES = [[48, "48 h"], [12, "12 h"], [3, "3 h"]];
const CALM = 0.05; // the risk axis shows at least so much above the threshold

export function vehicleView(root, id) {
  const trend = new Trend(id);
  const parts = { status: el("span", { class: "status" }), risk: el("strong", { class: "big" }), facts: el("p", { class: "muted" }), horizon: el("span", { class: "muted" }, "risk of overheating") };
  const ranges = RANGES.map(([hours, word]) => el("button", { class: "chip", onclick: () => { range = hours; show(); } }, word));
  const alerts = el("div", { class: "cards" });
  const first = el("div"), lead = el("div", { class: "lead-in" }, alerts, first), grid = el("div", { class: "charts" });
  const empty = el("div", { class: "empty" }, "Asking for the last 48 hours …");
  let range = null, charts = null, vehicle = null;
  root.append(
    el("a", { class: "back", href: "#/fleet" }, "← Fleet"),
    el("div", { class: "hero" },
      el("div", {}, el("h1", {}, id), parts.status, parts.facts),
      el("div", { class: "now" }, parts.risk, parts.horizon)),
    el("div", { class: "tools ranges", role: "group", "aria-label": "Range" }, ranges), empty, lead, grid);

  function build() {
    const names = Object.keys(trend.meta.units).filter((name) => trend.has(name));
    const { threshold, resolve_threshold: resolve } = trend.meta;
    const spans = () => trend.spans().map((one) => ({ ...one, colour: one.phase === "pending" ? "amber" : "ember" }));
    const riskText = ([, risk]) => percent(risk);
    riskText.axis = (y) => `${Math.round(100 * y)} %`;
    const natsText = ([oddest, mean]) => (mean === null || mean === undefined ? "–" : `${number(mean, 2)}, highest ${number(oddest, 2)}`);
    charts = [
      { name: "risk", of: () => trend.columns((row) => row.peak, (row) => row.risk), chart: new Chart({
        heading: "Risk", height: "fill", sync: "vehicle", format: riskText, spans,
        series: [{ colour: "ember", kind: "area" }, { colour: "ember", width: 1.75 }],
        range: (min, max) => [0, Math.min(1, Math.max(max ?? 0, threshold) + CALM)],
        lines: () => [{ at: threshold, label: `alert from ${percent(threshold)}`, colour: "red" }, { at: resolve, label: `resolves below ${percent(resolve)}`, colour: "muted" }],
        describe: ([, peaks, risks]) => `now ${percent(risks.at(-1))}, highest ${percent(Math.max(...peaks))} in 48 hours, threshold ${percent(threshold)}`,
      }) },
      { name: "surprise", of: () => trend.columns((row) => row.oddest, (row) => row.surprise), chart: new Chart({
        heading: "Surprise", unit: "nats per channel", sync: "vehicle", format: natsText, spans,
        series: [{ colour: "violet", kind: "area" }, { colour: "violet" }],
      }) },
      ...names.map((name) => {
        const text = ([value, upper, lower]) => (value === null || value === undefined ? "–"
          : upper === null || upper === undefined ? quantity(value, trend.meta.units[name])
          : `${quantity(value, trend.meta.units[name])}  (${number(lower)} to ${number(upper)})`);
        return { name, of: () => trend.channel(name), chart: new Chart({
          heading: title(name), unit: unit(trend.meta.units[name]), sync: "vehicle", format: text, spans,
          series: [{ colour: "ink", width: 1.25 }, { colour: "teal", kind: "upper" }, { colour: "teal", kind: "lower" }],
        }) };
      }),
    ];
    const trace = new Trace();
    charts.push({ name: "trace", trace });
    first.replaceWith(charts[0].chart.element);
    lead.prepend(charts[0].chart.element);
    grid.replaceChildren(...charts.slice(1).map((one) => (one.trace ?? one.chart).element));
    grid.append(el("p", { class: "muted small wide" }, "Each point stands for five minutes. The shaded band is what the model expected of the next sample (four of five lie within); a shaded span is an alert."));
  }

  function show() {
    if (!trend.rows.size) return;
    empty.hidden = true;
    if (!charts) {
      range ??= RANGES.findLast(([hours]) => trend.length <= 3600e3 * hours)?.[0] ?? 48; // the shortest that shows all there is
      build();
    }
    ranges.forEach((button, i) => button.setAttribute("aria-pressed", String(RANGES[i][0] === range)));
    const x = [trend.end / 1000 - 3600 * range, trend.end / 1000];
    for (const one of charts) {
      if (one.trace) one.trace.show(trend.path(), vehicle?.position);
      else one.chart.show(one.of(), x);
    }
  }

  function head() {
    const row = data.byId.get(id) ?? (vehicle && { id, phase: vehicle.phase, risk: vehicle.risk, heard: vehicle.last_ts_ms ?? 0, warming: vehicle.warming_up });
    if (!row) return;
    const status = statusOf(row);
    if (data.model) setText(parts.horizon, `risk of overheating within ${span(1000 * data.model.horizon_s)}`);
    setText(parts.status, status.acknowledged ? `${status.word}, acknowledged` : status.word);
    parts.status.className = `status is-${status.name}`;
    setText(parts.risk, percent(row.risk));
    parts.risk.className = `big ${row.risk >= (data.fleet?.threshold ?? 1) ? "hot" : ""}`;
    const more = vehicle ? `, session ${vehicle.epoch}, ${vehicle.samples.toLocaleString()} samples` : "";
    setText(parts.facts, `Last sample ${ago(row.heard)}${more}`);
    parts.facts.title = exactly(vehicle?.last_ts_ms ?? row.heard);
    const own = (data.alertsOf.get(id) ?? []).filter((alert, i) => isOpen(alert) || i < 2);
    redraw(alerts, () => alerts.replaceChildren(...own.map((alert) => alertCard(alert))));
    alerts.hidden = !own.length;
    lead.classList.toggle("split", own.length > 0);
  }

  const poll = every("vehicle", 5000, async () => {
    try {
      vehicle = (await get(`/v1/vehicles/${encodeURIComponent(id)}`)).value;
      head();
      if ((await trend.read()) || !charts) show();
      if (!trend.rows.size) setText(empty, "No sample yet in the last 48 hours.");
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      setText(empty, `Nothing was ever heard of a vehicle called ${id}.`);
    }
  });
  const off = [on("fleet", head), on("alerts", head), on("tick", head)];
  head();
  show();
  return () => {
    poll.stop();
    off.forEach((stop) => stop());
    charts?.forEach((one) => (one.trace ?? one.chart).close());
  };
}

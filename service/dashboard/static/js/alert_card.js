// One alert as a person acts on it: what, since when, why, and two buttons.

import { acknowledge, silence } from "./actions.js";
import { el } from "./dom.js";
import { ago, exactly, number, percent, quantity, span, title, when, words } from "./format.js";
import { data, isOpen } from "./live.js";

const RULES = { thermal_risk: "Thermal risk", telemetry_anomaly: "Unusual telemetry" };
const PHASES = { pending: "pending", firing: "firing", recovering: "recovering", resolved: "resolved", stale: "silent since", lapsed: "lapsed" };

export const ruleName = (rule) => RULES[rule] ?? title(rule);

export function alertCard(alert, { brief = false } = {}) {
  const name = alert.phase === "firing" ? alert.severity ?? "critical" : alert.phase;
  const href = `#/vehicle/${encodeURIComponent(alert.vehicle_id)}`;
  return el("article", { class: `alert is-${name}${alert.acknowledged ? " acknowledged" : ""}`, "data-alert": alert.id },
    el("header", {},
      el("a", { class: "name", href }, alert.vehicle_id),
      el("span", { class: `status is-${name}` }, alert.phase === "firing" && alert.severity ? alert.severity : PHASES[alert.phase] ?? alert.phase),
      el("time", { class: "muted", title: exactly(since(alert)) }, isOpen(alert) ? ago(since(alert)) : when(alert.resolved_ms ?? alert.updated_ms))),
    el("p", { class: "what" }, headline(alert)),
    brief ? null : explanation(alert),
    alert.acknowledged ? el("p", { class: "ack" }, `✓ ${alert.acknowledged.by} is on it since ${when(alert.acknowledged.at_ms)}`,
      alert.acknowledged.note ? el("q", {}, alert.acknowledged.note) : null) : null,
    isOpen(alert) ? el("footer", {},
      alert.acknowledged ? null : el("button", { class: "primary", "data-do": "acknowledge", onclick: () => acknowledge(alert), "aria-label": `Acknowledge the alert of ${alert.vehicle_id}` }, "Acknowledge"),
      el("button", { "data-do": "silence", onclick: () => silence(alert), "aria-label": `Silence ${alert.vehicle_id}` }, "Silence"),
      brief ? el("a", { class: "more", href, "aria-label": `Details of ${alert.vehicle_id}` }, "Details") : null) : null);
}

export const since = (alert) => alert.fired_ms ?? alert.first_crossed_ms ?? alert.updated_ms;

export function headline(alert) {
  if (alert.rule === "telemetry_anomaly") {
    return `${ruleName(alert.rule)}: surprise ${number(alert.value ?? alert.surprise, 2)} nats, threshold ${number(alert.threshold, 2)}`;
  }
  // The record is of the alert's last change; an open one is told as its vehicle stands now.
  const risk = (isOpen(alert) && data.byId.get(alert.vehicle_id)?.risk) || alert.risk;
  const peak = (alert.peak_risk ?? 0) > (risk ?? 0) ? `, peak ${percent(alert.peak_risk)}` : "";
  return `${ruleName(alert.rule)} ${percent(risk)} within ${span(1000 * alert.horizon_s)}${peak}`;
}

// Why: threshold, course, and the channels that deviate most.
export function explanation(alert) {
  const facts = [
    ["Threshold", alert.rule === "telemetry_anomaly" ? number(alert.threshold) : percent(alert.threshold)],
    alert.critical_threshold && alert.critical_threshold < 1e6 && ["Critical from", alert.rule === "telemetry_anomaly" ? number(alert.critical_threshold) : percent(alert.critical_threshold)],
    ["First crossed", alert.first_crossed_ms && when(alert.first_crossed_ms)],
    ["Fired", alert.fired_ms && when(alert.fired_ms)],
    ["Resolved", alert.resolved_ms && when(alert.resolved_ms)],
    ["Position", alert.position && `${alert.position.latitude.toFixed(4)}, ${alert.position.longitude.toFixed(4)}`],
    ["Model", (alert.model ?? alert.fingerprint ?? "").slice(0, 8)],
  ].filter((fact) => fact && fact[1]);
  return el("div", { class: "why" },
    alert.contributions?.length ? el("table", {},
      el("caption", {}, "What deviates most"),
      el("thead", {}, el("tr", {}, ["Channel", "Value", "Expected", "Deviation", "Since"].map((word) => el("th", { scope: "col" }, word)))),
      el("tbody", {}, alert.contributions.map((one) => el("tr", {},
        el("th", { scope: "row" }, title(one.channel)), el("td", {}, quantity(one.value, one.unit)), el("td", {}, quantity(one.expected, one.unit)),
        el("td", {}, `${one.deviation > 0 ? "+" : ""}${number(one.deviation, 2)} σ`), el("td", {}, one.since_ms ? `${one.since_at_least ? "before " : ""}${when(one.since_ms)}` : "–"))))) : null,
    ...sparkline(alert),
    el("dl", {}, facts.map(([term, value]) => el("div", {}, el("dt", {}, words(term)), el("dd", {}, value)))));
}

// The course of the value up to the last change, with the threshold across.
function sparkline({ course, threshold }) {
  if (!course || course.length < 3) return [];
  const [first, last] = [course[0][0], course.at(-1)[0]];
  const top = 1.1 * Math.max(threshold, ...course.map(([, value]) => value ?? 0));
  const x = (ts) => (200 * (ts - first)) / Math.max(1, last - first), y = (value) => 40 - (40 * (value ?? 0)) / top;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    svg.append(element);
  };
  for (const [key, value] of Object.entries({ viewBox: "0 0 200 40", preserveAspectRatio: "none", class: "spark", "aria-hidden": "true" })) svg.setAttribute(key, value);
  part("line", { x1: 0, x2: 200, y1: y(threshold), y2: y(threshold), class: "limit" });
  part("polyline", { points: course.map(([ts, value]) => `${x(ts).toFixed(1)},${y(value).toFixed(1)}`).join(" ") });
  return [svg, el("p", { class: "muted small" }, `from ${when(first)} to its last change at ${when(last)}`)];
}

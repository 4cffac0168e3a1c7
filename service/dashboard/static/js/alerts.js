// All alerts: open ones first, then what was resolved lately, and the silences in force.

import { endSilence } from "./actions.js";
import { alertCard } from "./alert_card.js";
import { get } from "./api.js";
import { el, redraw } from "./dom.js";
import { exactly, when, words } from "./format.js";
import { data, every, isOpen, on, polls } from "./live.js";

const ORDER = { firing: 0, recovering: 1, stale: 2, pending: 3 };

export function alertsView(root) {
  const open = el("div", { class: "cards" }), resolved = el("div", { class: "cards" }), silences = el("div");
  root.append(
    el("h1", {}, "Alerts"), open,
    el("div", {}, silences),
    el("h2", { class: "section" }, "Resolved lately"), resolved);

  const show = () => redraw(root, draw);

  function draw() {
    const now = data.alerts.filter(isOpen).sort((a, b) =>
      Boolean(a.acknowledged) - Boolean(b.acknowledged) || ORDER[a.phase] - ORDER[b.phase] || b.updated_ms - a.updated_ms);
    const past = data.alerts.filter((alert) => !isOpen(alert)).slice(0, 50);
    open.replaceChildren(...(now.length ? now.map((alert) => alertCard(alert))
      : [el("div", { class: "calm wide" }, el("span", { class: "dot ok" }), el("span", {}, data.fleet ? "No alert is open." : "Asking …"))]));
    resolved.replaceChildren(...(past.length ? past.map((alert) => alertCard(alert)) : [el("p", { class: "muted" }, "None yet.")]));
  }

  polls.silences = every("silences", 30000, async () => {
    const list = (await get("/v1/silences")).value.silences.filter((one) => one.state !== "ended");
    silences.replaceChildren(...(list.length ? [el("h2", { class: "section" }, "Silences"), ...list.map(silenceRow)] : []));
  });
  const off = [on("alerts", show), on("fleet", () => !data.alerts.length && draw())];
  draw();
  return () => { polls.silences.stop(); delete polls.silences; off.forEach((stop) => stop()); };
}

function silenceRow(one) {
  const what = [one.vehicle_id, one.rule && words(one.rule), one.severity && `${one.severity} only`].filter(Boolean).join(", ");
  const until = one.state === "pending" ? ` from ${when(one.starts_ms)} until ${when(one.ends_ms)}` : ` until ${when(one.ends_ms)}`;
  return el("div", { class: "card silence" },
    el("div", {}, el("strong", {}, what || "everything"), el("span", { class: "muted", title: exactly(one.ends_ms) }, until),
      el("p", { class: "muted" }, [one.comment, one.created_by].filter(Boolean).join(" · "))),
    el("button", { onclick: () => endSilence(one) }, "End it"));
}

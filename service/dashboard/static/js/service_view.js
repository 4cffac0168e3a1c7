// How the service fares: the worker that answered, over its last quarter of an hour.

import { Chart } from "./charts.js";
import { el } from "./dom.js";
import { exactly, number, span, now } from "./format.js";
import { data, on } from "./live.js";

const ms = (value) => (value === null || value === undefined ? "–" : `${number(value)} ms`);
const rate = (value) => (value === null || value === undefined ? "–" : `${number(value)} /s`);

const CHARTS = [
  ["Samples applied", "per second", ["applied_per_s"], ([v]) => rate(v)],
  ["Answer to a request", "ms", ["http_p99_ms", "http_p50_ms"], ([p99, p50]) => (p99 === null ? "–" : `p50 ${ms(p50)}, p99 ${ms(p99)}`)],
  ["Commit in the store", "ms", ["commit_p99_ms", "commit_p50_ms"], ([p99, p50]) => (p99 === null ? "–" : `p50 ${ms(p50)}, p99 ${ms(p99)}`)],
  ["Batch size", "samples", ["batch_size"], ([v]) => number(v)],
];

export function serviceView(root) {
  const tiles = el("dl", { class: "tiles" }), facts = el("dl", { class: "facts card" });
  const charts = CHARTS.map(([heading, unit, names, format]) => {
    const text = (values) => format(values);
    text.axis = (y) => number(y);
    return { names, chart: new Chart({ heading, unit, format: text, sync: "service",
      series: names.map((name, i) => ({ colour: i ? "teal" : names.length > 1 ? "violet" : "ink", width: 1.5, dots: true })),
      range: (min, max) => [0, Math.max(1e-6, (max ?? 1) * 1.15)] }) };
  });
  root.append(el("h1", {}, "Service"), tiles, el("div", { class: "charts two" }, charts.map((one) => one.chart.element)), facts);

  function show() {
    const service = data.service;
    if (!service?.now) {
      tiles.replaceChildren(el("div", { class: "tile" }, el("dt", {}, "Service"), el("dd", {}, "asking …")));
      return;
    }
    const beat = service.now, history = service.history;
    tiles.replaceChildren(...[
      ["Store", service.store.ok ? "answers" : "does not answer", service.store.ok ? ms(beat.store_ms) : service.store.reason, service.store.ok ? "ok" : "bad"],
      ["Samples", rate(beat.applied_per_s), `${rate(beat.not_applied_per_s)} not applied`, ""],
      ["Answer, p99", ms(beat.http_p99_ms), beat.http_p50_ms === null ? "no request just now" : `half within ${ms(beat.http_p50_ms)}`, ""],
      ["Network step, p99", ms(beat.step_p99_ms), beat.batch_size === null ? "no sample just now" : `batches of ${number(beat.batch_size)}`, ""],
      ["Waiting", number(beat.queue_depth), "samples for a batch", ""],
      ["In the cache", number(beat.slots_used), `of ${service.slots_capacity.toLocaleString()} vehicles`, ""],
    ].map(([term, value, more, kind]) => el("div", { class: `tile ${kind}` }, el("dt", {}, term), el("dd", {}, el("strong", {}, value), el("span", {}, more)))));
    const xs = history.ts_ms.map((ts) => ts / 1000);
    for (const { names, chart } of charts) {
      const columns = [xs, ...names.map((name) => history[name].map((value) => value ?? null))];
      chart.element.hidden = xs.length < 2;
      if (xs.length >= 2) chart.show(columns, [xs.at(-1) - 900, xs.at(-1)]);
    }
    facts.replaceChildren(...[
      ["Worker", service.worker], ["Running for", span(now() - service.started_ms)], ["Since", exactly(service.started_ms)], ["Version", service.version],
      ["Computes on", `${service.backend} (${service.device})`], ["Model", service.fingerprint.slice(0, 16)],
      ...(data.model ? [["Parameters", data.model.parameters.toLocaleString()], ["Bytes per vehicle, store", data.model.bytes_per_vehicle.total_in_store.toLocaleString()]] : []),
    ].map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
  }
  const off = [on("service", show), on("model", show)];
  show();
  return () => { off.forEach((stop) => stop()); charts.forEach((one) => one.chart.close()); };
}

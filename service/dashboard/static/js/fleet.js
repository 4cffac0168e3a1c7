// The fleet by risk, with search and filters; beside it, where there is room, what needs somebody now.

import { alertCard } from "./alert_card.js";
import { el, redraw, setText } from "./dom.js";
import { ago, exactly, number, percent, plural } from "./format.js";
import { data, isOpen, isSilent, on, statusOf, troubles } from "./live.js";
import { VirtualList } from "./virtual_list.js";

const FILTERS = [["all", "All"], ["alerting", "Alerting"], ["silent", "Silent"]];
const ORDERS = [["risk", "Highest risk"], ["surprise", "Highest surprise"], ["heard", "Longest silent"], ["id", "Name"]];
const kept = { search: "", filter: "all", order: "risk", top: 0 }; // while other views are open

export function fleetView(root) {
  const search = el("input", {
    type: "search", class: "search", placeholder: "Search vehicles", "aria-label": "Search vehicles", "aria-keyshortcuts": "/", id: "search",
    autocomplete: "off", spellcheck: "false", oninput: () => { kept.search = search.value; show(); },
    onkeydown: (event) => { if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); list.focus(0); } },
  });
  search.value = kept.search;
  const filters = FILTERS.map(([name, word]) => el("button", { class: "chip", "data-name": name, onclick: () => { kept.filter = name; show(); } }, word));
  const order = el("select", { "aria-label": "Order", onchange: () => { kept.order = order.value; show(); } },
    ORDERS.map(([name, word]) => el("option", { value: name }, word)));
  order.value = kept.order;
  const list = new VirtualList({
    label: "Vehicles", make: makeRow, fill: fillRow,
    rowHeight: () => (matchMedia("(max-width: 640px)").matches ? 60 : 44),
  });
  const summary = el("div", { class: "summary" });
  const empty = el("div", { class: "empty" });
  const count = el("p", { class: "muted small", role: "status" });
  const side = el("aside", { class: "side", "aria-label": "Open alerts" });
  root.append(
    el("h1", { class: "hidden" }, "Fleet"), summary,
    el("div", { class: "columns" },
      el("section", { class: "card list", "aria-label": "Vehicles" },
        el("div", { class: "tools" }, search, el("div", { class: "chips", role: "group", "aria-label": "Filter" }, filters), order),
        el("div", { class: "heads", "aria-hidden": "true" }, ["Vehicle", "Status", "Risk", "Surprise", "Last sample"].map((word) => el("span", {}, word))),
        list.element, empty, el("div", { class: "foot" }, count)),
      side));

  function show() {
    for (const chip of filters) chip.setAttribute("aria-pressed", String(chip.dataset.name === kept.filter));
    if (!data.fleet) {
      list.element.hidden = true;
      setText(empty, troubles.has("fleet") ? "The fleet cannot be read now. It is asked for again and again." : "Asking the service for the fleet …");
      return;
    }
    const wanted = kept.search.trim().toLowerCase();
    const rows = data.vehicles.filter((vehicle) => (!wanted || vehicle.id.toLowerCase().includes(wanted)) && matches(vehicle));
    rows.sort(COMPARE[kept.order]);
    list.show(rows);
    root.querySelector(".list").classList.toggle("bare", data.fleet.n_vehicles === 0);
    empty.hidden = rows.length > 0;
    list.element.hidden = rows.length === 0;
    if (!rows.length) empty.replaceChildren(...nothing(wanted));
    const rest = data.fleet.n_vehicles - data.vehicles.length;
    setText(count, `${plural(rows.length, "vehicle")}${rest > 0 ? `; the ${rest.toLocaleString()} of the lowest risk are not listed` : ""}`);
    drawSummary(summary);
    drawSide(side);
  }
  const matches = (vehicle) =>
    kept.filter === "all" || (kept.filter === "silent" ? isSilent(vehicle) : statusOf(vehicle).weight >= 10);

  const off = [on("trouble", () => data.fleet || show()), on("fleet", show), on("alerts", show), on("tick", () => list.draw(true))];
  show();
  list.element.scrollTop = kept.top;
  list.draw();
  return () => { kept.top = list.element.scrollTop; list.close(); off.forEach((stop) => stop()); };
}

const COMPARE = {
  risk: (a, b) => (b.risk ?? -1) - (a.risk ?? -1) || a.id.localeCompare(b.id),
  surprise: (a, b) => (b.surprise ?? -99) - (a.surprise ?? -99),
  heard: (a, b) => a.heard - b.heard,
  id: (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }),
};

function nothing(wanted) {
  if (wanted) return [el("p", { class: "lead" }, `No vehicle here is called “${wanted}”.`)];
  if (kept.filter === "alerting") return [el("p", { class: "lead" }, "No alert is open."), el("p", {}, "Vehicles appear here as their risk crosses the threshold.")];
  if (kept.filter === "silent") return [el("p", { class: "lead" }, "Every vehicle has been heard of lately.")];
  return [
    el("p", { class: "lead" }, "No vehicle has reported yet."),
    el("p", {}, "Send a sample, and it appears here within seconds:"),
    el("pre", { tabindex: "0" }, `curl -X POST ${location.origin}/v1/vehicles/van-1/telemetry \\\n  -H 'Content-Type: application/json' \\\n  -d '{"ts": ${Date.now()}, "signals": {"speed": 12.4, "motor_temperature": 64.0}}'`),
  ];
}

function makeRow(item) {
  const parts = {
    name: el("span", { class: "name" }, item.id), status: el("span", { class: "status" }),
    risk: el("span", { class: "figure" }), fill: el("i"), mark: el("b"),
    surprise: el("span", { class: "figure surprise" }), heard: el("span", { class: "heard" }),
  };
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, parts.fill, parts.mark);
  const link = el("a", { href: `#/vehicle/${encodeURIComponent(item.id)}` },
    parts.name, parts.status, el("span", { class: "risk" }, bar, parts.risk), parts.surprise, parts.heard);
  return { element: el("li", {}, link), link, ...parts };
}

function fillRow(row, vehicle) {
  const status = statusOf(vehicle);
  const word = status.acknowledged ? `${status.word}, acknowledged` : status.word;
  setText(row.status, word);
  row.status.className = `status is-${status.name}${status.acknowledged ? " acknowledged" : ""}`;
  setText(row.risk, percent(vehicle.risk));
  row.fill.style.width = `${100 * (vehicle.risk ?? 0)}%`;
  row.mark.style.left = `${100 * data.fleet.threshold}%`;
  row.link.classList.toggle("over", (vehicle.risk ?? 0) >= data.fleet.threshold);
  row.link.classList.toggle("near", (vehicle.risk ?? 0) >= data.fleet.resolve_threshold);
  setText(row.surprise, number(vehicle.surprise, 2));
  setText(row.heard, ago(vehicle.heard));
  row.heard.title = `last sample ${exactly(vehicle.last)}`;
  row.link.setAttribute("aria-label", `${vehicle.id}, ${word}, risk ${percent(vehicle.risk)}, last sample ${ago(vehicle.heard)}`);
}

function drawSummary(summary) {
  const open = data.alerts.filter(isOpen);
  const firing = open.filter((alert) => alert.phase === "firing");
  const waiting = firing.filter((alert) => !alert.acknowledged).length;
  const silent = data.vehicles.filter(isSilent).length;
  const figures = [
    [data.fleet.n_vehicles.toLocaleString(), data.fleet.n_vehicles === 1 ? "vehicle" : "vehicles", ""],
    [firing.length, "firing", firing.length ? "hot" : ""],
    [waiting, "not acknowledged", waiting ? "hot" : ""],
    [open.length - firing.length, "pending or recovering", ""],
    [silent, "silent", silent ? "dim" : ""],
  ];
  summary.replaceChildren(...figures.map(([value, word, kind]) =>
    el("div", { class: `sum ${kind}` }, el("strong", {}, String(value)), el("span", {}, word))));
}

function drawSide(side) {
  const open = data.alerts.filter(isOpen).sort((a, b) => (b.phase === "firing") - (a.phase === "firing") || b.updated_ms - a.updated_ms);
  redraw(side, () => side.replaceChildren(
    el("h2", {}, "Open alerts"),
    ...(open.length ? open.slice(0, 12).map((alert) => alertCard(alert, { brief: true }))
      : [el("div", { class: "calm" }, el("span", { class: "dot ok" }), el("span", {}, "Nothing needs you now."))]),
    ...(open.length > 12 ? [el("a", { href: "#/alerts" }, `all ${open.length}`)] : [])));
}

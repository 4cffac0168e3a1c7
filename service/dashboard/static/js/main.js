// The frame: which view, how fresh, what is broken, keys of the keyboard.

import { alertsView } from "./alerts.js";
import { help, signIn } from "./dialogs.js";
import { el, setText, toast } from "./dom.js";
import { fleetView } from "./fleet.js";
import { clock, percent, when, zone } from "./format.js";
import { data, isOpen, lastHeard, on, start, troubles } from "./live.js";
import { mapView } from "./map.js";
import { serviceView } from "./service_view.js";
import { vehicleView } from "./vehicle.js";

const VIEWS = { fleet: fleetView, alerts: alertsView, map: mapView, service: serviceView, vehicle: vehicleView };
const main = document.getElementById("main");
let leave = () => {};

function go() {
  const [, name = "fleet", argument = ""] = location.hash.match(/^#\/(\w+)(?:\/(.+))?$/) ?? [];
  const view = VIEWS[name] ? name : "fleet";
  leave();
  const root = el("div", { class: `view ${view}` });
  main.replaceChildren(root);
  leave = VIEWS[view](root, decodeURIComponent(argument));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === (view === "vehicle" ? "fleet" : view)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
}

function frame() {
  const firing = data.alerts.filter((alert) => isOpen(alert) && alert.phase === "firing" && !alert.acknowledged).length;
  const count = document.getElementById("alert-count");
  count.hidden = !firing;
  setText(count, String(firing));
  count.setAttribute("aria-label", `${firing} not acknowledged`);
  document.title = `${firing ? `(${firing}) ` : ""}Emberwatch`;
  const broken = trouble();
  const pulse = document.getElementById("pulse");
  const heard = lastHeard();
  pulse.replaceChildren(el("span", { class: `dot ${broken ? "bad" : heard ? "ok" : ""}` }), el("span", { title: `times in ${zone}` },
    broken ? (heard ? `as of ${clock(heard)}` : "not connected") : heard ? "live" : "connecting"));
  const banner = document.getElementById("banner");
  const said = broken ?? missing();
  banner.hidden = !said;
  if (said) {
    setText(banner.firstElementChild, said.what);
    setText(banner.lastElementChild, said.more);
    banner.title = said.detail ?? "";
  }
  document.body.classList.toggle("old", Boolean(broken));
}

// What is wrong in a sentence, what that means for who looks, and the reason in the service's words; null when all is well.
function trouble() {
  const store = data.service?.store;
  const asOf = lastHeard() ? `What is shown is from ${when(Math.max(...["fleet", "alerts"].map((name) => troubles.get(name)?.asOf ?? 0)) || lastHeard())}.` : "";
  const worst = [...troubles.values()].sort((a, b) => a.status - b.status)[0];
  if (worst?.status === 0 || worst?.status === 502) return { what: "The service does not answer.", more: `It is asked again and again. ${asOf}` };
  if ((store && !store.ok) || worst?.status === 503) {
    return { what: "The store does not answer.", more: `Vehicles send their samples again later; what was acknowledged is not lost. ${asOf}`, detail: store?.reason };
  }
  return worst ? { what: worst.detail, more: asOf } : null;
}

function missing() {
  if (!data.fleet?.partitions_unreachable) return null;
  return { what: "A node of the store does not answer.", more: "Its vehicles are missing here. They send their samples again later; what was acknowledged is not lost." };
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  const places = { 1: "#/fleet", 2: "#/alerts", 3: "#/map", 4: "#/service" };
  if (event.key === "/") {
    event.preventDefault();
    const search = document.getElementById("search");
    if (search) search.focus();
    else {
      addEventListener("hashchange", () => document.getElementById("search")?.focus(), { once: true });
      location.hash = "#/fleet";
    }
  } else if (event.key === "?") help();
  else if (event.key === "Escape") location.hash = "#/fleet";
  else if (event.key === "a") main.querySelector("[data-do=acknowledge]")?.click();
  else if (places[event.key]) location.hash = places[event.key];
});
document.getElementById("help-button").addEventListener("click", help);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", go);
for (const name of ["alerts", "trouble", "fleet", "tick", "service"]) on(name, frame);
on("login", (event) => signIn(event.detail));
on("fired", ({ detail: alert }) => {
  toast(`${alert.vehicle_id} fires: ${percent(alert.risk)}`, "hot");
  document.getElementById("announcer").append(el("p", {}, `Alert: ${alert.vehicle_id} fires`));
});
go();
frame();
start();

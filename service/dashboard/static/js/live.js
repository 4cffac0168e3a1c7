// What the page knows, and how it stays current: shared documents are asked for every few seconds with their entity tag,
// alerts come as events. A hidden page asks for nothing.

import { events, get, Problem } from "./api.js";
import { now } from "./format.js";

export const data = { fleet: null, vehicles: [], byId: new Map(), alerts: [], alertsOf: new Map(), service: null, model: null };
export const troubles = new Map(); // name -> {status, detail, since, asOf}
export const changes = new EventTarget(); // "fleet", "alerts", "service", "trouble", "login"
const heard = new Map(); // name -> when it was last answered
const OPEN = ["firing", "recovering", "stale", "pending"];
const WEIGHT = { firing: 4, recovering: 3, stale: 2, pending: 1 };

const SHARED_S = 5; // so old may a list of alerts be that was made for another page
let mustBeNew = true; // at first, after a gap in the stream, and after this page changed something
let recent = []; // events that such a list may not have yet

const tell = (name, detail) => changes.dispatchEvent(new CustomEvent(name, { detail }));
export const on = (name, then) => {
  changes.addEventListener(name, then);
  return () => changes.removeEventListener(name, then);
};
export const isOpen = (alert) => OPEN.includes(alert.phase);
export const lastHeard = () => Math.max(0, ...heard.values());

// Run `work` now and every so often while the page is visible; later each time that it fails. Stops when told to.
export function every(name, milliseconds, work) {
  let stopped = false, timer = 0, failures = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (stopped) return;
    if (!document.hidden) {
      try {
        await work();
        failures = 0;
        heard.set(name, now());
        if (troubles.delete(name)) tell("trouble");
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        failures += 1;
        note(name, error);
      }
    }
    const pause = Math.min(milliseconds * 2 ** Math.min(failures, 3), Math.max(milliseconds, 15000));
    if (!stopped) timer = setTimeout(turn, pause * (0.9 + 0.2 * Math.random()));
  };
  const wake = () => !document.hidden && turn();
  document.addEventListener("visibilitychange", wake);
  turn();
  return {
    soon: turn,
    stop: () => {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", wake);
      if (troubles.delete(name)) tell("trouble");
    },
  };
}

function note(name, error) {
  if (error.status === 401) {
    tell("login", error.message);
    return;
  }
  const known = troubles.get(name);
  troubles.set(name, { status: error.status, detail: error.message, since: known?.since ?? now(), asOf: heard.get(name) });
  tell("trouble");
}

async function readFleet() {
  const { value, fresh } = await get("/v1/fleet");
  if (!fresh && data.fleet) return tell("tick");
  const c = value.columns;
  data.fleet = value;
  data.vehicles = c.vehicle_id.map((id, i) => ({
    id, phase: c.phase[i], anomaly: c.anomaly[i], risk: c.risk[i], surprise: c.surprise[i], last: c.last_ts_ms[i], heard: c.heard_ms[i],
    warming: c.warming_up[i], latitude: c.latitude[i], longitude: c.longitude[i],
  }));
  data.byId = new Map(data.vehicles.map((vehicle) => [vehicle.id, vehicle]));
  tell("fleet");
}

async function readAlerts() {
  const phases = OPEN.map((phase) => `phase=${phase}`).join("&");
  const maxAge = mustBeNew ? 0 : SHARED_S;
  mustBeNew = false;
  const [open, resolved] = await Promise.all([
    get(`/v1/alerts?${phases}&limit=1000`, maxAge), get("/v1/alerts?phase=resolved&limit=50", maxAge),
  ]);
  let alerts = [...open.value.alerts, ...resolved.value.alerts];
  recent = recent.filter(({ at }) => at > performance.now() - 1000 * (SHARED_S + 3));
  for (const { record } of recent) if (!hasLater(alerts, record)) alerts = changed(alerts, record);
  take(alerts);
}

// Whether a list tells a later state of a vehicle and rule than an event does.
const hasLater = (alerts, { vehicle_id, rule, updated_ms }) => alerts.some((alert) => alert.vehicle_id === vehicle_id && alert.rule === rule
  && (alert.updated_ms > updated_ms || (alert.updated_ms === updated_ms && alert.acknowledged)));

function take(alerts) {
  data.alerts = alerts.sort((a, b) => b.updated_ms - a.updated_ms);
  data.alertsOf = new Map();
  for (const alert of data.alerts) {
    const of = data.alertsOf.get(alert.vehicle_id) ?? [];
    of.push(alert);
    data.alertsOf.set(alert.vehicle_id, of);
  }
  tell("alerts");
}

// One change of an alert: it takes the place of what its vehicle and rule had.
function changed(alerts, record) {
  const others = alerts.filter(
    (alert) => alert.vehicle_id !== record.vehicle_id || alert.rule !== record.rule || (!isOpen(alert) && alert.id !== record.id),
  );
  return record.phase === "inactive" || record.phase === "lapsed" ? others : [record, ...others];
}

function apply(record) {
  recent.push({ record, at: performance.now() });
  take(changed(data.alerts, record));
  if (record.transition === "firing" || record.transition === "escalated") tell("fired", record);
}

async function follow() {
  let lastId = null;
  for (;;) {
    if (document.hidden) {
      await new Promise((then) => document.addEventListener("visibilitychange", then, { once: true }));
      continue;
    }
    try {
      for await (const event of events("/v1/alerts/stream", lastId)) {
        lastId = event.id ?? lastId;
        if (!event.data) continue;
        const told = JSON.parse(event.data);
        if (told.vehicle_id && told.phase) apply(told);
        else readAnew();
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return; // a service without the stream: asking has to do
    }
    readAnew(); // what came meanwhile
    await new Promise((then) => setTimeout(then, 2000 + 4000 * Math.random()));
  }
}

// The state that an operator sees: the vehicle's worst open alert, else silence, else quiet.
export function statusOf(vehicle) {
  const open = (data.alertsOf.get(vehicle.id) ?? []).filter(isOpen);
  const alert = open.sort((a, b) => WEIGHT[b.phase] - WEIGHT[a.phase])[0];
  const silent = isSilent(vehicle);
  if (alert) {
    const severe = alert.phase === "firing" ? alert.severity ?? "critical" : alert.phase;
    return { name: severe, word: alert.phase, alert, acknowledged: Boolean(alert.acknowledged), weight: 10 + WEIGHT[alert.phase] };
  }
  const phase = [vehicle.phase, vehicle.anomaly ?? "inactive"].sort((a, b) => (WEIGHT[b] ?? 0) - (WEIGHT[a] ?? 0))[0];
  if (WEIGHT[phase]) return { name: phase === "firing" ? "critical" : phase, word: phase, weight: 10 + WEIGHT[phase] };
  if (silent) return { name: "silent", word: "silent", weight: 5 };
  if (vehicle.warming) return { name: "warming", word: "warming up", weight: 1 };
  return { name: "quiet", word: "quiet", weight: 0 };
}

export const isSilent = (vehicle) => now() - vehicle.heard > 1000 * (data.fleet?.stale_after_s ?? 300);

export const polls = {};
export function readAnew() {
  mustBeNew = true;
  polls.alerts.soon();
}

export function start() {
  polls.fleet = every("fleet", 3000, readFleet);
  polls.alerts = every("alerts", 10000, readAlerts);
  polls.service = every("service", 5000, async () => {
    data.service = (await get("/v1/service")).value;
    tell("service");
  });
  get("/v1/model").then(({ value }) => { data.model = value; tell("model"); }).catch(() => {});
  follow();
}

export function again() {
  for (const poll of Object.values(polls)) poll.soon();
}

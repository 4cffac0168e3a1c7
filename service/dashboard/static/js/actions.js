// What a person can do here: take an alert on, and silence notifications. Both need the scope that the route asks for.

import { post, Problem, remove } from "./api.js";
import { ask, signIn } from "./dialogs.js";
import { el, toast } from "./dom.js";
import { ago, now, span } from "./format.js";
import { polls, readAnew } from "./live.js";

const NAME = "emberwatch-name"; // who acts; kept on this device
const DURATIONS = [["1 hour", 3600], ["4 hours", 14400], ["1 day", 86400], ["1 week", 604800]];

const who = () => el("label", {}, "Your name",
  el("input", { name: "by", required: true, maxlength: "64", autocomplete: "name", value: localStorage.getItem(NAME) ?? "" }));

async function act(work, done) {
  try {
    await work();
    toast(done);
    readAnew();
    polls.silences?.soon();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401 || error.status === 403) signIn(`${error.message}.`);
    else toast(`Not done: ${error.message}`, "bad");
  }
}

export async function acknowledge(alert) {
  const form = await ask(`Acknowledge ${alert.vehicle_id}`, "Acknowledge",
    el("p", {}, "Others see that you are on it. The alert goes on until the risk has fallen."), who(),
    el("label", {}, "Note", el("textarea", { name: "note", rows: 2, maxlength: "500", placeholder: "optional" })));
  if (!form) return;
  localStorage.setItem(NAME, form.get("by"));
  const note = form.get("note");
  await act(() => post(`/v1/alerts/${encodeURIComponent(alert.id)}/ack`, { by: form.get("by"), ...(note ? { note } : {}) }),
    `${alert.vehicle_id}: acknowledged`);
}

export async function silence(alert) {
  const form = await ask(`Silence ${alert.vehicle_id}`, "Silence",
    el("p", {}, "No notification leaves for this vehicle until then. The alert stays visible here."),
    el("label", {}, "What", el("select", { name: "rule" }, el("option", { value: alert.rule }, "This rule only"), el("option", { value: "" }, "Everything of this vehicle"))),
    el("label", {}, "For", el("select", { name: "seconds" }, DURATIONS.map(([word, seconds]) => el("option", { value: seconds }, word)))),
    who(), el("label", {}, "Why", el("textarea", { name: "comment", rows: 2, maxlength: "500", required: true })));
  if (!form) return;
  localStorage.setItem(NAME, form.get("by"));
  const seconds = Number(form.get("seconds"));
  const what = { vehicle_id: alert.vehicle_id, ...(form.get("rule") ? { rule: form.get("rule") } : {}) };
  await act(() => post("/v1/silences", { ...what, ends_ms: Math.round(now() + 1000 * seconds), created_by: form.get("by"), comment: form.get("comment") }),
    `${alert.vehicle_id}: silenced for ${span(1000 * seconds)}`);
}

export async function endSilence(one) {
  await act(() => remove(`/v1/silences/${encodeURIComponent(one.id)}`), `The silence has ended; it began ${ago(one.starts_ms)}`);
}

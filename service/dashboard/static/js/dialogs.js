// Dialogs, with the browser's own <dialog>: focus stays inside, Escape closes.

import { hasKey, useKey } from "./api.js";
import { el } from "./dom.js";
import { again } from "./live.js";

// A form in a dialog; its data, or null if it was closed without.
export function ask(heading, action, ...content) {
  return new Promise((resolve) => {
    const form = el("form", { method: "dialog" }, el("h2", {}, heading), ...content,
      el("div", { class: "buttons" },
        el("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        el("button", { class: "primary", value: "yes" }, action)));
    const dialog = el("dialog", { "aria-label": heading, onclose: () => {
      resolve(dialog.returnValue === "yes" ? new FormData(form) : null);
      dialog.remove();
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

let told = null; // the paragraph of the open dialog

// Requests that were under way are refused too, in any order: the open dialog says what was said last.
export async function signIn(reason) {
  const why = reason || "This service asks for an API key.";
  if (told) {
    told.textContent = why;
    return;
  }
  told = el("p", {}, why);
  const form = await ask("Sign in", "Use this key", told,
    el("label", {}, "API key", el("input", { name: "key", type: "password", required: true, autocomplete: "current-password", placeholder: "ew_…" })),
    el("p", { class: "muted small" }, "A key with scope read is needed to look, admin to acknowledge and silence. It stays in this tab until you close it."));
  told = null;
  if (!form) return;
  useKey(form.get("key").trim());
  again();
}

export const signOut = () => { useKey(null); location.reload(); };
export const signedIn = hasKey;

const KEYS = [
  ["/", "search vehicles"], ["↑ ↓  or  k j", "move in the list"], ["Enter", "open the vehicle"], ["Esc", "back to the fleet"],
  ["1 2 3 4", "fleet, alerts, map, service"], ["a", "acknowledge the first alert in view"], ["?", "this help"],
];

export function help() {
  const dialog = el("dialog", { "aria-label": "Keyboard", onclose: () => dialog.remove() },
    el("h2", {}, "Keyboard"),
    el("dl", { class: "keys" }, KEYS.map(([key, what]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)))),
    el("div", { class: "buttons" },
      signedIn() ? el("button", { onclick: signOut }, "Forget the API key") : null,
      el("button", { class: "primary", onclick: () => dialog.close() }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

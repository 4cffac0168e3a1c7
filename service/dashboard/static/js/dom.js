// Elements from data. Text is always text: nothing from the service is ever read as markup.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Draw anew; whoever is on a button of an alert's card stays on its successor, or on the card.
export function redraw(root, draw) {
  const active = root.contains(document.activeElement) ? document.activeElement : null;
  const id = active?.closest("[data-alert]")?.dataset.alert, action = active?.dataset.do;
  draw();
  if (!active || root.contains(active) || !id) return;
  const card = root.querySelector(`[data-alert="${CSS.escape(id)}"]`);
  (card?.querySelector(`[data-do="${action}"]`) ?? card?.querySelector("a"))?.focus();
}

export function toast(text, kind = "") {
  const note = el("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 6000);
}

export function onSchemeChange(then) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", then);
  return () => dark.removeEventListener("change", then);
}

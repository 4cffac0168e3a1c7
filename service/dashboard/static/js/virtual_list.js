// A long list of which only the rows in view exist. Arrow keys, Page, Home and End move, Enter opens.

import { el } from "./dom.js";

export class VirtualList {
  // `fill(row, item)` puts an item into a row's link; `rowHeight` follows the style sheet.
  constructor({ label, rowHeight, make, fill, open }) {
    Object.assign(this, { rowHeight, make, fill, open });
    this.items = [];
    this.active = null; // id
    this.rows = new Map(); // id -> element
    this.space = el("ul", { class: "rows", "aria-label": label });
    this.element = el("div", { class: "scroller", tabindex: "-1", onscroll: () => this.draw(), onkeydown: (e) => this.key(e) }, this.space);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  show(items) {
    this.items = items;
    this.draw(true);
  }

  draw(all = false) {
    const height = this.rowHeight();
    this.space.style.height = `${this.items.length * height}px`;
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - 6);
    const last = Math.min(this.items.length, Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + 6);
    const kept = new Set();
    for (let i = first; i < last; i += 1) {
      const item = this.items[i];
      let row = this.rows.get(item.id);
      const fresh = !row;
      if (fresh) {
        row = this.make(item);
        row.element.addEventListener("focusin", () => { this.active = item.id; });
        this.rows.set(item.id, row);
        this.space.append(row.element);
      }
      kept.add(item.id);
      row.element.style.transform = `translateY(${i * height}px)`;
      row.element.setAttribute("aria-posinset", i + 1);
      row.element.setAttribute("aria-setsize", this.items.length);
      if (fresh || all) this.fill(row, item);
    }
    for (const [id, row] of this.rows) {
      // The row that has the focus stays, or the keyboard would lose its place.
      if (kept.has(id) || row.element.contains(document.activeElement)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
  }

  index() {
    return this.items.findIndex((item) => item.id === this.active);
  }

  focus(i) {
    const item = this.items[Math.max(0, Math.min(this.items.length - 1, i))];
    if (!item) return;
    const height = this.rowHeight(), at = this.items.indexOf(item) * height;
    const view = this.element;
    if (at < view.scrollTop) view.scrollTop = at;
    else if (at + height > view.scrollTop + view.clientHeight) view.scrollTop = at + height - view.clientHeight;
    this.active = item.id;
    this.draw();
    this.rows.get(item.id)?.link.focus({ preventScroll: true });
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight()) - 1);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const at = this.index();
    const to = step === -Infinity ? 0 : step === Infinity ? this.items.length - 1 : at + step;
    this.focus(at < 0 ? 0 : to);
  }
}

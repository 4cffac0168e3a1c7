// The way of one vehicle over its 48 hours.

import { colour, el, onSchemeChange } from "./dom.js";
import { drawGraticule, prepare, Projection } from "./projection.js";

export class Trace {
  constructor() {
    this.canvas = el("canvas", { role: "img", "aria-label": "Positions of the last 48 hours" });
    this.element = el("figure", { class: "chart card" }, el("figcaption", {}, el("span", {}, "Way")), this.canvas);
    this.path = [];
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
    this.off = onSchemeChange(() => this.draw());
  }

  close() {
    this.off();
    this.observer.disconnect();
  }

  show(path, position) {
    this.path = position ? [...path, position] : path;
    this.element.hidden = !this.path.length;
    this.draw();
  }

  draw() {
    if (!this.path.length || !this.canvas.clientWidth) return;
    const { ctx, width, height } = prepare(this.canvas);
    const projection = new Projection();
    projection.fit(this.path, width, height, 28);
    drawGraticule(ctx, projection, { line: colour("line"), muted: colour("muted") });
    ctx.strokeStyle = colour("teal");
    ctx.lineWidth = 1.5;
    ctx.lineJoin = "round";
    ctx.beginPath();
    for (const { longitude, latitude } of this.path) ctx.lineTo(...projection.point(longitude, latitude));
    ctx.stroke();
    const { longitude, latitude } = this.path.at(-1);
    ctx.fillStyle = colour("ember");
    ctx.beginPath();
    ctx.arc(...projection.point(longitude, latitude), 4.5, 0, 7);
    ctx.fill();
  }
}

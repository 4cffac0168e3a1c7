// Where the vehicles are, without tiles: a graticule, a scale, a dot each. Drag, wheel or pinch; arrows, + - and 0 on the keyboard.

import { colour, el, onSchemeChange, setText } from "./dom.js";
import { percent, plural } from "./format.js";
import { data, on, statusOf } from "./live.js";
import { drawGraticule, prepare, Projection } from "./projection.js";

const kept = { projection: null };
const COLOURS = { critical: "red", warning: "ember", pending: "amber", recovering: "amber", stale: "muted", silent: "muted", quiet: "teal", warming: "teal" };

export function mapView(root) {
  const canvas = el("canvas", { class: "map", tabindex: "0", role: "img", "aria-label": "Positions of the vehicles", "aria-keyshortcuts": "ArrowLeft ArrowRight ArrowUp ArrowDown + - 0" });
  const tip = el("div", { class: "tip", hidden: true });
  const note = el("p", { class: "muted small" });
  const named = el("ul", { class: "named", "aria-label": "Vehicles with an alert" });
  const legend = el("div", { class: "legend" }, [["critical", "critical"], ["warning", "warning"], ["pending", "pending or recovering"], ["quiet", "quiet"], ["silent", "silent"]].map(([name, word]) =>
    el("span", {}, el("span", { class: `dot is-${name}` }), word)));
  root.append(el("h1", { class: "hidden" }, "Map"), el("div", { class: "card mapbox" }, canvas, tip, legend), note, named);
  let points = [];
  const pointers = new Map();
  let projection = kept.projection;

  function take() {
    points = data.vehicles.filter((vehicle) => vehicle.latitude !== null && vehicle.longitude !== null)
      .map((vehicle) => ({ vehicle, status: statusOf(vehicle) })).sort((a, b) => a.status.weight - b.status.weight);
    setText(note, points.length || !data.fleet ? `${plural(points.length, "vehicle")} with a position. Positions are plotted as they are; no map is fetched from anywhere.`
      : "No vehicle has sent a position yet.");
    const alerting = points.filter((point) => point.status.weight >= 10).reverse().slice(0, 30);
    if (!named.contains(document.activeElement)) {
      named.replaceChildren(...alerting.map(({ vehicle, status }) => el("li", {}, el("a", { href: `#/vehicle/${encodeURIComponent(vehicle.id)}` },
        el("span", { class: `dot is-${status.name}` }), `${vehicle.id}, ${status.word}, ${percent(vehicle.risk)}`))));
    }
    draw();
  }

  function draw() {
    if (!canvas.clientWidth) return;
    const { ctx, width, height } = prepare(canvas);
    if (!projection && points.length) {
      projection = kept.projection = new Projection();
      projection.fit(points.map((point) => point.vehicle), width, height);
    }
    if (!projection) return;
    Object.assign(projection, { width, height });
    drawGraticule(ctx, projection, { line: colour("line"), muted: colour("muted") });
    const small = points.length > 2000 ? 2 : points.length > 200 ? 3 : 4.5;
    const inks = Object.fromEntries(Object.entries(COLOURS).map(([name, ink]) => [name, colour(ink)]));
    for (const { vehicle, status } of points) {
      const [x, y] = projection.point(vehicle.longitude, vehicle.latitude);
      if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
      ctx.globalAlpha = status.weight >= 10 ? 1 : status.name === "silent" ? 0.45 : 0.75;
      ctx.fillStyle = inks[status.name] ?? inks.quiet;
      ctx.beginPath();
      ctx.arc(x, y, status.weight >= 10 ? small + 2.5 : small, 0, 7);
      ctx.fill();
      if (status.weight >= 14 && !status.acknowledged) {
        ctx.strokeStyle = ctx.fillStyle;
        ctx.lineWidth = 1.5;
        ctx.beginPath();
        ctx.arc(x, y, small + 7, 0, 7);
        ctx.stroke();
      }
    }
    ctx.globalAlpha = 1;
  }

  function nearest(x, y) {
    let best = null, least = 18 ** 2;
    for (const point of points) {
      const [px, py] = projection.point(point.vehicle.longitude, point.vehicle.latitude);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [best, least] = [point, distance];
    }
    return best;
  }

  function hint(x, y) {
    const found = projection && nearest(x, y);
    tip.hidden = !found;
    canvas.style.cursor = found ? "pointer" : "grab";
    if (!found) return null;
    setText(tip, `${found.vehicle.id}  ${percent(found.vehicle.risk)}  ${found.status.word}`);
    tip.style.left = `${Math.min(x + 14, canvas.clientWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(8, y - 34)}px`;
    return found;
  }

  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, [event.offsetX, event.offsetY]); moved = 0; });
  canvas.addEventListener("pointermove", (event) => {
    const { offsetX: x, offsetY: y } = event, before = pointers.get(event.pointerId);
    if (!before) { hint(x, y); return; }
    if (!projection) return;
    const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) {
      const [ox, oy] = others[0], was = Math.hypot(before[0] - ox, before[1] - oy), is = Math.hypot(x - ox, y - oy);
      projection.zoom(is / Math.max(was, 1), (x + ox) / 2, (y + oy) / 2);
    } else projection.pan(x - before[0], y - before[1]);
    moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
    pointers.set(event.pointerId, [x, y]);
    tip.hidden = true;
    draw();
  });
  const up = (event) => {
    pointers.delete(event.pointerId);
    if (event.type === "pointerup" && moved < 6) {
      const found = hint(event.offsetX, event.offsetY);
      if (found) location.hash = `#/vehicle/${encodeURIComponent(found.vehicle.id)}`;
    }
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    projection?.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (!projection) return;
    if (steps[event.key]) projection.pan(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") projection.zoom(1.4);
    else if (event.key === "-") projection.zoom(1 / 1.4);
    else if (event.key === "0") projection = null;
    else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
  });
  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  const off = [on("fleet", take), on("alerts", take), onSchemeChange(draw)];
  take();
  return () => { observer.disconnect(); off.forEach((stop) => stop()); };
}

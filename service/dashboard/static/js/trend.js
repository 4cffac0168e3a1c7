// A vehicle's trend as the service keeps it, brought up to date by asking only for what may have changed.

import { forget, get } from "./api.js";

const BAND = 1.61; // of a Laplace scale: four of five samples lie within

export class Trend {
  constructor(id) {
    this.id = id;
    this.rows = new Map(); // start -> {name: value}
    this.meta = null;
  }

  // Whether anything is new.
  async read() {
    const path = `/v1/vehicles/${encodeURIComponent(this.id)}/trend`;
    const last = Math.max(0, ...this.rows.keys());
    const asked = last ? `${path}?from=${last}` : path;
    const { value, fresh } = await get(asked);
    if (asked !== this.asked && this.asked) forget(this.asked);
    this.asked = asked;
    if (!fresh && this.meta) return false;
    this.meta = value;
    const c = value.columns;
    c.ts_ms.forEach((ts, i) => {
      const row = { samples: c.samples[i], risk: c.risk[i], peak: c.risk_max[i], surprise: c.surprise[i], oddest: c.surprise_max[i], phase: c.phase[i], latitude: c.latitude[i], longitude: c.longitude[i] };
      for (const name of Object.keys(c.values)) {
        row[`value ${name}`] = c.values[name][i];
        row[`forecast ${name}`] = c.forecast[name][i];
        row[`scale ${name}`] = c.forecast_scale[name][i];
      }
      this.rows.set(ts, row);
    });
    const newest = Math.max(0, ...this.rows.keys());
    for (const ts of this.rows.keys()) if (ts <= newest - 48 * 3600e3) this.rows.delete(ts);
    return true;
  }

  get step() {
    return 1000 * (this.meta?.resolution_s ?? 300);
  }

  get end() {
    return Math.max(0, ...this.rows.keys()) + this.step;
  }

  get length() {
    return this.rows.size ? this.end - Math.min(...this.rows.keys()) : 0;
  }

  // Every bin's start in seconds, silent ones included, so that a gap is a gap.
  times() {
    const known = [...this.rows.keys()].sort((a, b) => a - b);
    const times = [];
    for (const ts of known) {
      if (times.length && ts - times.at(-1) > this.step) times.push(times.at(-1) + this.step);
      times.push(ts);
    }
    return times;
  }

  columns(...of) {
    const times = this.times();
    return [times.map((ts) => (ts + this.step / 2) / 1000), ...of.map((take) => times.map((ts) => {
      const row = this.rows.get(ts);
      return row ? take(row) ?? null : null;
    }))];
  }

  channel(name) {
    const band = (sign) => (row) => {
      const mean = row[`forecast ${name}`], scale = row[`scale ${name}`];
      return mean === null || scale === null || row[`value ${name}`] === null ? null : mean + sign * BAND * scale;
    };
    return this.columns((row) => row[`value ${name}`], band(1), band(-1));
  }

  has(name) {
    return [...this.rows.values()].some((row) => row[`value ${name}`] !== null);
  }

  // Spans in which the alert was in one phase, in seconds.
  spans() {
    const spans = [];
    for (const ts of this.times()) {
      const phase = this.rows.get(ts)?.phase ?? "inactive";
      const last = spans.at(-1);
      if (last && last.phase === phase) last.to = (ts + this.step) / 1000;
      else spans.push({ phase, from: ts / 1000, to: (ts + this.step) / 1000 });
    }
    return spans.filter((span) => span.phase !== "inactive");
  }

  path() {
    return this.times().map((ts) => this.rows.get(ts)).filter((row) => row && row.latitude !== null && row.longitude !== null);
  }
}

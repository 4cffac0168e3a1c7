// Degrees to pixels and back: equirectangular, true to scale at the middle of what is shown. No tiles, no outside.

const KM_PER_DEGREE = 111.195;

export class Projection {
  constructor() {
    this.centre = [0, 0];
    this.scale = 1; // pixels per degree of latitude
    this.width = this.height = 1;
  }

  get squeeze() {
    return Math.max(0.05, Math.cos((this.centre[1] * Math.PI) / 180));
  }

  fit(points, width, height, margin = 36) {
    this.width = width;
    this.height = height;
    if (!points.length) return;
    let [west, east, south, north] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { longitude, latitude } of points) {
      west = Math.min(west, longitude); east = Math.max(east, longitude);
      south = Math.min(south, latitude); north = Math.max(north, latitude);
    }
    this.centre = [(west + east) / 2, (south + north) / 2];
    const least = 0.004;
    this.scale = Math.min((width - 2 * margin) / (Math.max(east - west, least) * this.squeeze), (height - 2 * margin) / Math.max(north - south, least));
  }

  point(longitude, latitude) {
    return [this.width / 2 + (longitude - this.centre[0]) * this.squeeze * this.scale, this.height / 2 - (latitude - this.centre[1]) * this.scale];
  }

  place(x, y) {
    return [this.centre[0] + (x - this.width / 2) / (this.squeeze * this.scale), this.centre[1] - (y - this.height / 2) / this.scale];
  }

  pan(dx, dy) {
    this.centre = [this.centre[0] - dx / (this.squeeze * this.scale), Math.max(-89, Math.min(89, this.centre[1] + dy / this.scale))];
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const [longitude, latitude] = this.place(x, y);
    this.scale = Math.max(0.5, Math.min(4e6, this.scale * factor));
    const [nx, ny] = this.point(longitude, latitude);
    this.pan(x - nx, y - ny);
  }

  // Lines of the graticule, and a bar of a round length: {step, bar: {km, pixels}}.
  rulers() {
    const step = nice(90 / this.scale), km = nice((110 / this.scale) * KM_PER_DEGREE);
    return { step, bar: { km, pixels: (km / KM_PER_DEGREE) * this.scale } };
  }
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((n) => n * power >= value) * power;
}

export function prepare(canvas) {
  const ratio = devicePixelRatio, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return { ctx, width, height };
}

function degrees(at, digits, positive, negative) {
  const text = `${Math.abs(at).toFixed(digits)}°`;
  return Number(at.toFixed(digits)) === 0 ? text : `${text} ${at > 0 ? positive : negative}`;
}

export function drawGraticule(ctx, projection, colours) {
  const { step, bar } = projection.rulers(), { width, height } = projection;
  const [west, north] = projection.place(0, 0), [east, south] = projection.place(width, height);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const labels = [];
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = 1;
  ctx.font = "11px system-ui, sans-serif";
  ctx.beginPath();
  for (let at = Math.ceil(west / step) * step; at < east; at += step) {
    const x = Math.round(projection.point(at, 0)[0]) + 0.5;
    ctx.moveTo(x, 0); ctx.lineTo(x, height);
    labels.push([degrees(at, digits, "E", "W"), x + 4, height - 8]);
  }
  for (let at = Math.ceil(south / step) * step; at < north; at += step) {
    const y = Math.round(projection.point(0, at)[1]) + 0.5;
    ctx.moveTo(0, y); ctx.lineTo(width, y);
    if (y < height - 30) labels.push([degrees(at, digits, "N", "S"), 6, y - 4]);
  }
  ctx.stroke();
  for (const [text, x, y] of labels) { // a line behind a label would strike it through
    ctx.clearRect(x - 2, y - 10, ctx.measureText(text).width + 4, 13);
    ctx.fillStyle = colours.muted;
    ctx.fillText(text, x, y);
  }
  const right = width - 14;
  ctx.strokeStyle = colours.muted;
  ctx.beginPath();
  ctx.moveTo(right - bar.pixels, 14); ctx.lineTo(right - bar.pixels, 20); ctx.lineTo(right, 20); ctx.lineTo(right, 14);
  ctx.stroke();
  ctx.textAlign = "right";
  ctx.fillText(bar.km >= 1 ? `${bar.km} km` : `${Math.round(1000 * bar.km)} m`, right, 34);
  ctx.textAlign = "left";
}

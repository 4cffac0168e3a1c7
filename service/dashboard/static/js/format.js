// Numbers, times and words as a person reads them; times in the viewer's own zone.

const UNITS = { "m/s^2": "m/s²", degC: "°C", deg: "°", "1/interval": "per 5 s", count: "", ratio: "" };
const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat(undefined, {
  weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
});
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

let skew = 0; // of this clock against the service's, ms
export const noteServerTime = (ms, roundTrip) => {
  const seen = ms + 500 + roundTrip / 2 - Date.now(); // the header counts whole seconds
  skew = Math.abs(seen) < 2000 ? 0 : seen;
};
export const now = () => Date.now() + skew;

export const clock = (ms) => clockFormat.format(ms);

export function when(ms) {
  if (!ms) return "never";
  return Math.abs(now() - ms) < 12 * 3600e3 ? minuteFormat.format(ms) : dayFormat.format(ms);
}

export const exactly = (ms) => (ms ? new Date(ms).toLocaleString(undefined, { timeZoneName: "short" }) : "never");

export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) {
    const minutes = Math.floor((s % 3600) / 60);
    return s < 36000 && minutes ? `${Math.floor(s / 3600)} h ${minutes} min` : `${Math.floor(s / 3600)} h`;
  }
  return `${Math.floor(s / 86400)} days`;
}

export const ago = (ms) => (ms ? (now() - ms < 5000 ? "now" : `${span(now() - ms)} ago`) : "never");

export function percent(share) {
  if (share === null || share === undefined) return "–";
  const p = 100 * share;
  return `${p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : "<0.1"} %`;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString();
  if (size < 5e-4) return "0";
  return String(Number(value.toPrecision(digits)));
}

export const unit = (name) => UNITS[name] ?? name;
export const quantity = (value, name) => `${number(value)} ${unit(name)}`.trim();
export const words = (name) => name.replaceAll("_", " ");
export const title = (name) => words(name).replace(/^./, (letter) => letter.toUpperCase());
export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

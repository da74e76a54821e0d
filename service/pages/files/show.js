// Numbers and times as people read them.

// A number with up to five digits that count.
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(3).replace(/\.?0+e/, "e");
  if (size >= 1e5) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(5)));
}

// A number with three digits that count.
export function brief(value) {
  return number(Number(value.toPrecision(3)));
}

// A number without the digits that make no difference over a range: of a time in seconds over a day as of one over a year.
export function within(value, [low, high], digits) {
  const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const more = Math.ceil(Math.log10(size / (high - low || size)));
  return Number(value.toPrecision(Math.min(17, digits + Math.max(0, more))));
}

export function share(value) {
  const percent = 100 * value;
  return `${percent >= 99.95 || percent === 0 ? percent.toFixed(0) : percent < 0.1 ? "<0.1" : percent.toFixed(1)} %`;
}

export function seconds(value) {
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${Number((value * 1e3).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;
}

export function count(value, one, many = `${one}s`) {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}

// Days since 1970 as the ISO text that the server reads, to the second.
export function day(days) {
  return new Date(Math.round(days * 86400) * 1000).toISOString().slice(0, 19);
}

// The name of a metric as people write it.
export function metric(name) {
  return { r2: "R²", rmse: "RMSE", mae: "MAE", mse: "MSE", roc_auc: "ROC AUC" }[name] ?? name.replaceAll("_", " ");
}

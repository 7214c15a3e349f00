// The cohort as typed arrays, from the data blocks that cohort_packing.py wrote.

const HAS_REPORT = 1, HAS_IMAGE = 2, IS_SUBJECT = 4;
const WITHOUT_CHECK = 128; // the bit of metrics that belong to no check

async function unpack(name) {
  const text = atob(document.getElementById(`pack-${name}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Numbers from planes: the lowest bytes of all of them, then the next. Typed arrays are little-endian where browsers run.
function fromPlanes(planes, size, type) {
  const count = planes.length / size, bytes = new Uint8Array(planes.length);
  for (let byte = 0; byte < size; byte++)
    for (let i = 0, at = byte * count; i < count; i++) bytes[size * i + byte] = planes[at + i];
  return new type(bytes.buffer);
}

async function readCohort() {
  const [values, outliers, subjects, labels] = await Promise.all(
    ["values", "outliers", "subjects", "labels"].map(unpack));
  const names = JSON.parse(new TextDecoder().decode(labels)), count = names.participants.length;
  const numbers = fromPlanes(values, 4, Float32Array), scores = fromPlanes(outliers, 2, Int16Array);
  const metrics = names.metrics.map((metric, k) => ({
    ...metric,
    values: numbers.subarray(k * count, (k + 1) * count),
    z: scores.subarray(k * count, (k + 1) * count), // 0: not beyond the limit
    bit: metric.check === null ? WITHOUT_CHECK : 1 << names.checks.indexOf(metric.check),
  }));
  const keys = names.participants.map((one, i) =>
    names.sessions && names.sessions[i] !== null ? `${one}_${names.sessions[i]}` : one);
  const cohort = {
    ...names, count, keys, metrics,
    failed: subjects.subarray(0, count),
    links: subjects.subarray(count, 2 * count),
    group: fromPlanes(subjects.subarray(2 * count), 2, Uint16Array), // 0: none
    index: new Map(keys.map((key, i) => [key, i])),
  };
  return { ...cohort, ...countOutliers(cohort) };
}

// How many metrics of each subject are outliers, and the checks, as bits, that failed or have an outlier. Each metric
// gets the number of its outliers.
function countOutliers({ count, metrics, failed }) {
  const outlierCount = new Uint16Array(count), flagged = Uint8Array.from(failed);
  for (const metric of metrics) {
    const { z, bit } = metric;
    metric.outliers = 0;
    for (let i = 0; i < count; i++) if (z[i]) { outlierCount[i]++; flagged[i] |= bit; metric.outliers++; }
  }
  return { outlierCount, flagged };
}

function formatValue(metric, i) {
  const value = metric.values[i];
  if (Number.isNaN(value)) return "n/a";
  return metric.texts ? metric.texts[value] : formatNumber(metric, value);
}

// Four significant digits, zeros at the end included, so that the numbers of a column align.
function formatNumber(metric, value) {
  if (value === 0 || (metric.integer && Number.isInteger(value))) return String(value);
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e4 ? value.toPrecision(4) : String(Number(value.toPrecision(4)));
}

const withUnit = (metric) => metric.unit ? `${metric.label} (${metric.unit})` : metric.label;
const scoreOf = (cohort, metric, i) => (metric.z[i] * cohort.zUnit).toFixed(1).replace("-", "\u2212");
const describeOutlier = (cohort, metric, i) =>
  `${metric.label} ${formatValue(metric, i)} (z ${scoreOf(cohort, metric, i)})`;
const failedChecks = (cohort, i) => cohort.checks.filter((_, bit) => cohort.failed[i] & (1 << bit));
const outliersOf = (cohort, i) => cohort.metrics.filter((metric) => metric.z[i]);
const groupName = (cohort, i) => cohort.group[i] ? cohort.groups[cohort.group[i] - 1] : "n/a";
const capitalized = (text) => text[0].toUpperCase() + text.slice(1);
const formatCount = (count) => count.toLocaleString("en");

// Relative to the page, which is at the root of the store.
function reportUrl(cohort, i) {
  return cohort.links[i] & HAS_REPORT ? `${encodeURIComponent(cohort.keys[i])}.html` : null;
}

function imageUrl(cohort, i) {
  if (!(cohort.links[i] & HAS_IMAGE)) return null;
  const session = cohort.sessions && cohort.sessions[i];
  const folders = [cohort.participants[i], ...(session ? [session] : []), "dwi"].map(encodeURIComponent);
  return `${folders.join("/")}/${encodeURIComponent(cohort.keys[i])}_desc-image_qc_figure.png`;
}

// An element with text: data reach the page as text only.
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The columns of the table: what each shows, and what it sorts by.

const MARKS = { low: "\u25bc ", high: "\u25b2 ", failed: "\u26a0 " }; // a sign beside the color

function createColumns(cohort, ratings) {
  const popcount = (bits) => { let n = 0; for (; bits; bits &= bits - 1) n++; return n; };
  const numbers = (value) => () => Float64Array.from({ length: cohort.count }, (_, i) => value(i));
  const byKey = () => {
    const ranks = new Float64Array(cohort.count), order = [...cohort.keys.keys()];
    order.sort((a, b) => cohort.keys[a] < cohort.keys[b] ? -1 : 1).forEach((i, rank) => { ranks[i] = rank; });
    return ranks;
  };
  const plain = (label, text, values, more = {}) => ({ label, text, values, title: "", mark: () => "", ...more });
  const columns = [
    plain("Subject", (i) => cohort.keys[i], byKey, { width: textWidth(cohort.keys, 110, 340) }),
    plain("Rating", (i) => ratings.of(i)?.verdict ?? "", numbers((i) => ratings.codes[i] || NaN),
      { width: 84, verdict: (i) => ratings.of(i)?.verdict ?? "" }),
    plain("Failed checks", (i) => failedChecks(cohort, i).join(", "), numbers((i) => popcount(cohort.failed[i])),
      { width: 150, downFirst: true, mark: (i) => cohort.failed[i] ? "failed" : "" }),
    plain("Outliers", (i) => String(cohort.outlierCount[i]), () => cohort.outlierCount,
      { width: 84, downFirst: true, isNumber: true, title: "Metrics whose robust z-score is beyond the limit" }),
  ];
  if (cohort.groups.length) {
    columns.push(plain(capitalized(cohort.groupName), (i) => groupName(cohort, i), numbers((i) => cohort.group[i] || NaN),
      { width: textWidth([cohort.groupName, ...cohort.groups], 80, 220) }));
  }
  cohort.metrics.forEach((metric) => columns.push(plain(
    withUnit(metric), (i) => formatValue(metric, i), () => metric.values, {
      title: `${metric.name}: ${metric.description}`, isNumber: !metric.texts, metric,
      mark: (i) => metric.z[i] ? (metric.z[i] < 0 ? "low" : "high") : "",
      width: metric.texts ? textWidth([metric.label, ...metric.texts], 90, 260)
        : textWidth([...metric.label.split(/[\s-]/).map((word) => `${word}m`), ...someValues(metric)], 84, 150),
    })));
  return columns;
}

function textWidth(texts, least, most) {
  return Math.min(most, Math.max(least, 24 + 8 * texts.reduce((length, one) => Math.max(length, one.length), 0)));
}

// The values of about 100 subjects, with place for a mark.
function someValues(metric) {
  const step = Math.ceil(metric.values.length / 100), texts = [];
  for (let i = 0; i < metric.values.length; i += step) texts.push(MARKS.high + formatValue(metric, i));
  return texts;
}

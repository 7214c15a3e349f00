// The filters above the table: they apply to table, plots and images.

function createFilters(cohort, ratings, view) {
  const field = (name) => document.getElementById(`filter-${name}`), { filter } = view;
  const fields = { text: field("text"), beyond: field("beyond"), check: field("check"), metric: field("metric"),
    group: field("group"), rating: field("rating") };
  const option = (text, value) => element("option", { value }, text);

  cohort.checks.forEach((check, bit) => {
    const count = cohort.flagged.reduce((sum, bits) => sum + ((bits >> bit) & 1), 0);
    fields.check.append(option(`${check} (${formatCount(count)})`, bit));
  });
  cohort.metrics.forEach((metric, k) => {
    if (metric.outliers) fields.metric.append(option(`${metric.label} (${formatCount(metric.outliers)})`, k));
  });
  cohort.groups.forEach((group, k) => fields.group.append(option(group, k + 1)));
  if (cohort.group.includes(0)) fields.group.append(option("n/a", 0));
  document.getElementById("group-name").textContent = capitalized(cohort.groupName);
  fields.group.closest("label").hidden = !cohort.groups.length;
  fields.metric.closest("label").hidden = fields.metric.options.length < 2;

  function apply() {
    filter.text = fields.text.value;
    filter.beyond = fields.beyond.checked;
    for (const name of ["check", "metric", "group", "rating"]) filter[name] = Number(fields[name].value);
    view.update();
  }

  function clear() {
    fields.text.value = "";
    fields.beyond.checked = false;
    for (const name of ["check", "metric", "group", "rating"]) fields[name].value = "-1";
    apply();
  }

  Object.values(fields).forEach((one) => one.addEventListener("input", apply));
  document.getElementById("filter-clear").addEventListener("click", clear);
  view.on("order", () => {
    document.getElementById("shown").textContent = view.isFiltered()
      ? `${formatCount(view.order.length)} of ${formatCount(cohort.count)} subjects` : `${formatCount(cohort.count)} subjects`;
    document.getElementById("filter-clear").disabled = !view.isFiltered();
  });

  return {
    clear, apply, focus: () => { fields.text.focus(); fields.text.select(); },
    outliersIn(metric) {
      fields.metric.value = String(cohort.metrics.indexOf(metric));
      apply();
    },
  };
}

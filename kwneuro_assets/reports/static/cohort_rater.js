// The bar at the bottom: the current subject, its rating, and the file of ratings.

function createRater(cohort, ratings, view) {
  const get = (id) => document.getElementById(id), bar = get("rater"), comment = get("comment"), rater = get("rater-name");
  const buttons = [...bar.querySelectorAll("button[data-verdict]")], storage = createStorage("kwneuro-assets rater");
  const [[, remembered] = []] = storage.read();
  rater.value = remembered?.rater ?? "";

  function store(i, verdict) {
    ratings.set(i, verdict, comment.value, rater.value);
    view.emit("rating", i);
  }

  function rate(verdict) {
    const i = view.current;
    if (i < 0 || !ratings.canRate(i)) return;
    store(i, verdict);
    announce(`${cohort.keys[i]} ${verdict ? `rated ${verdict}` : "is not rated"}`);
    if (verdict && get("advance").checked) view.move(1);
  }

  function showCurrent() {
    const i = view.current, rating = i < 0 ? null : ratings.of(i), allowed = i >= 0 && ratings.canRate(i);
    get("current-name").replaceChildren(i < 0 ? "No subject selected" : subjectLink(i));
    get("current-findings").replaceChildren(...(i < 0 ? ["Click on a point, a row or an image, or press j."] : findings(i)));
    buttons.forEach((button) => {
      button.disabled = !allowed;
      button.setAttribute("aria-pressed", String(Boolean(rating) && rating.verdict === button.dataset.verdict));
    });
    comment.disabled = !rating;
    comment.value = rating?.comment ?? "";
    comment.placeholder = rating ? "Comment" : "Rate first, then comment";
    get("rated-by").textContent = rating && (rating.rater || rating.date)
      ? `Rated${rating.rater ? ` by ${rating.rater}` : ""}${rating.date ? `, ${rating.date.slice(0, 10)}` : ""}.` : "";
  }

  function subjectLink(i) {
    const url = reportUrl(cohort, i);
    return url ? element("a", { href: url }, cohort.keys[i]) : cohort.keys[i];
  }

  function findings(i) {
    const failed = failedChecks(cohort, i), outliers = outliersOf(cohort, i), parts = [];
    if (cohort.group[i]) parts.push(`${cohort.groupName}: ${groupName(cohort, i)}`);
    if (failed.length) parts.push(element("span", { className: "beyond" }, `${MARKS.failed}failed: ${failed.join(", ")}`));
    const described = outliers.map((metric) => describeOutlier(cohort, metric, i));
    if (outliers.length) parts.push(`\u25c6 ${described.join(", ")}`);
    if (!failed.length && !outliers.length) parts.push("no failed check, no outlier");
    return parts.flatMap((part, at) => at ? [" \u00b7 ", part] : [part]);
  }

  function showUnsaved() {
    const count = ratings.unsaved(), verdicts = [0, 0, 0, 0];
    ratings.codes.forEach((code) => verdicts[code]++);
    get("unsaved").textContent = count ? `${formatCount(count)} unsaved` : "";
    get("discard").hidden = !count;
    get("rated").textContent = VERDICTS.map((name, at) => `${formatCount(verdicts[at + 1])} ${name}`).join(", ");
  }

  function save() {
    const url = URL.createObjectURL(new Blob([ratings.toTsv()], { type: "text/tab-separated-values" }));
    element("a", { href: url, download: "ratings.tsv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    announce("ratings.tsv saved as a download");
  }

  function announce(text) { get("announcement").textContent = text; }

  buttons.forEach((button) => button.addEventListener("click", () => rate(button.dataset.verdict)));
  comment.addEventListener("change", () => {
    const rating = ratings.of(view.current);
    if (rating) store(view.current, rating.verdict);
  });
  comment.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") get("scroller").focus({ preventScroll: true });
  });
  rater.addEventListener("change", () => {
    storage.write(new Map([["rater", { verdict: "", comment: "", rater: cleaned(rater.value), date: "" }]]));
  });
  get("save").addEventListener("click", save);
  get("discard").addEventListener("click", () => {
    if (!confirm(`Discard ${ratings.unsaved()} unsaved ratings?`)) return;
    ratings.discard();
    view.emit("rating");
  });
  get("previous").addEventListener("click", () => view.move(-1));
  get("next").addEventListener("click", () => view.move(1));
  addEventListener("beforeunload", (event) => { if (ratings.unsaved() && !ratings.isStored()) event.preventDefault(); });
  view.on("current", (i) => {
    showCurrent();
    const at = view.position[i], rating = ratings.of(i)?.verdict ?? "not rated";
    announce(`${cohort.keys[i]}, ${at < 0 ? "not among those shown" : `${at + 1} of ${view.order.length}`}, ${rating}`);
  });
  view.on("rating", () => { showCurrent(); showUnsaved(); });
  showCurrent();
  showUnsaved();
  get("not-stored").hidden = ratings.isStored();
  return { rate, focusComment: () => { if (!comment.disabled) { comment.focus(); comment.select(); } } };
}

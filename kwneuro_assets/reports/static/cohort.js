// The cohort page: opens the data, joins the parts, and reads the keyboard.

function readKeys(view, rater, filters) {
  const enabled = document.getElementById("shortcuts");
  const actions = {
    j: () => view.move(1), k: () => view.move(-1),
    g: () => rater.rate("good"), 1: () => rater.rate("good"),
    d: () => rater.rate("doubtful"), 2: () => rater.rate("doubtful"),
    x: () => rater.rate("exclude"), 3: () => rater.rate("exclude"),
    u: () => rater.rate(""), 0: () => rater.rate(""),
    c: () => rater.focusComment(), "/": () => filters.focus(),
    "?": () => document.getElementById("help").showModal(),
  };
  addEventListener("keydown", (event) => {
    const writes = event.target.closest?.("input:not([type=checkbox]), select, textarea, dialog");
    if (writes || !enabled.checked || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!Object.hasOwn(actions, event.key)) return;
    actions[event.key]();
    event.preventDefault();
  });
  document.getElementById("help-open").addEventListener("click", () => document.getElementById("help").showModal());
}

const MOST_PRINTED = 500;

// On paper: all plots, and the flagged subjects among those shown.
function preparePrint(cohort, ratings, view, plots) {
  const closed = [];
  addEventListener("beforeprint", () => {
    document.querySelectorAll("#plots details:not([open])").forEach((one) => { one.open = true; closed.push(one); });
    plots.drawForPrint();
    const flagged = [...view.order].filter((i) => cohort.flagged[i] || ratings.codes[i]);
    const rows = flagged.slice(0, MOST_PRINTED).map((i) => flaggedRow(cohort, ratings, i));
    document.getElementById("flagged").replaceChildren(...rows);
    document.getElementById("flagged-count").textContent = flagged.length > MOST_PRINTED
      ? `The first ${MOST_PRINTED} of ${formatCount(flagged.length)} subjects.`
      : `${formatCount(flagged.length)} of ${formatCount(view.order.length)} subjects.`;
  });
  addEventListener("afterprint", () => {
    closed.splice(0).forEach((one) => { one.open = false; });
    plots.invalidate();
  });
}

function flaggedRow(cohort, ratings, i) {
  const rating = ratings.of(i), outliers = outliersOf(cohort, i);
  const cells = [
    failedChecks(cohort, i).join(", "),
    outliers.map((metric) => describeOutlier(cohort, metric, i)).join("; "),
    rating ? rating.verdict + (rating.comment ? `: ${rating.comment}` : "") : "",
  ];
  return element("tr", {}, element("th", { scope: "row" }, cohort.keys[i]), ...cells.map((text) => element("td", {}, text)));
}

async function openCohort() {
  performance.mark("open-start");
  const cohort = await readCohort(), ratings = createRatings(cohort), view = createView(cohort, ratings);
  const filters = createFilters(cohort, ratings, view);
  const table = createTable(cohort, ratings, view);
  createImages(cohort, ratings, view);
  const rater = createRater(cohort, ratings, view);
  const plots = createPlots(cohort, view, {
    outliersIn(metric) { filters.outliersIn(metric); table.sortBy(metric.name); },
  });
  readKeys(view, rater, filters);
  preparePrint(cohort, ratings, view, plots);
  filters.apply(); // a browser that goes back to this page restores what was in the fields
  // The browser went to this place before the plots above it were there.
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
  document.documentElement.dataset.state = "open";
  performance.measure("open", "open-start");
}

openCohort().catch((error) => {
  console.error(error);
  const place = document.getElementById("error");
  place.hidden = false;
  place.textContent = `This page cannot show its data: ${error.message}. It needs a browser of 2023 or later.`;
  document.documentElement.dataset.state = "error";
});

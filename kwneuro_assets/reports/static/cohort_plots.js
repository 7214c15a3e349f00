// The distributions of all metrics, by check. The plots are one widget with one tab stop: left and right go through the
// subjects in the order of their values, up and down through the metrics.

function createPlots(cohort, view, shown) {
  const place = document.getElementById("plots"), tip = document.getElementById("tip");
  const lanes = createLanes(cohort), jitter = createJitter(cohort.count), plots = [];
  const isShown = (i) => view.position[i] >= 0;
  const ofSlider = new Map();
  const visibility = new IntersectionObserver((entries) => {
    entries.forEach(({ target, isIntersecting }) => { ofSlider.get(target).isVisible = isIntersecting; });
    drawVisible();
  }, { rootMargin: "100px" });
  addLegend(lanes);

  for (const check of [...cohort.checks, null]) {
    const metrics = cohort.metrics.filter((metric) => metric.check === check && !metric.texts);
    if (metrics.length) place.append(section(check, metrics));
  }
  if (plots.length) plots[0].slider.tabIndex = 0;

  function section(check, metrics) {
    const bit = check === null ? WITHOUT_CHECK : 1 << cohort.checks.indexOf(check);
    const flagged = cohort.flagged.reduce((sum, bits) => sum + Boolean(bits & bit), 0);
    const title = check === null ? "Information" : capitalized(check);
    const grid = element("div", { className: "strips" });
    const absent = [];
    for (const metric of metrics) {
      const plot = createPlot(metric);
      if (plot) { plots.push(plot); grid.append(plot.figure); } else absent.push(metric.label);
    }
    const made = element("details", { open: check !== null || metrics.length <= 12 },
      element("summary", {}, element("h3", {}, title), element("span", { className: "soft" },
        ` \u2013 ${metrics.length} ${metrics.length === 1 ? "metric" : "metrics"}, ${formatCount(flagged)} flagged`)), grid);
    if (absent.length) made.append(element("p", { className: "soft" }, `Not available for any subject: ${absent.join(", ")}.`));
    return made;
  }

  function createPlot(metric) {
    const strip = new Strip(cohort, metric, lanes, jitter);
    if (!strip.scale) return null;
    const marker = element("span", { className: "marker", hidden: true });
    const slider = element("div", { className: "plot", tabIndex: -1 }, strip.canvas, marker);
    const plot = { metric, strip, marker, slider, isVisible: false, isDirty: true, sorted: null };
    describe(plot);
    plot.figure = element("figure", { className: "strip" }, caption(metric), slider, statistics(strip));
    slider.addEventListener("mousemove", (event) => hover(plot, event));
    slider.addEventListener("mouseleave", () => { tip.hidden = true; });
    slider.addEventListener("click", (event) => {
      focusPlot(plot, { preventScroll: true });
      const i = nearest(plot, event);
      if (i >= 0) view.setCurrent(i);
    });
    slider.addEventListener("keydown", (event) => press(plot, event));
    ofSlider.set(slider, plot);
    visibility.observe(slider);
    return plot;
  }

  function caption(metric) {
    const count = metric.outliers, made = element("figcaption", { title: `${metric.name}: ${metric.description}` },
      element("span", { className: "label" }, withUnit(metric)));
    if (count) {
      made.append(element("button", { type: "button", onclick: () => shown.outliersIn(metric) },
        `${formatCount(count)} ${count === 1 ? "outlier" : "outliers"}`,
        element("span", { className: "hidden-text" }, ` of ${metric.label}: show only them`)));
    }
    return made;
  }

  function statistics({ metric, scale }) {
    const number = (p) => formatNumber(metric, scale.quantile(p)), missing = cohort.count - scale.known.length;
    return element("p", { className: "statistics" }, [
      `median ${number(0.5)}, 5\u201395 % ${number(0.05)} to ${number(0.95)}`,
      ...(missing ? [`${formatCount(missing)} n/a`] : []),
    ].join(" \u00b7 "));
  }

  function describe({ metric, strip: { scale }, slider }) {
    const better = { higher: ", higher is better", lower: ", lower is better", neither: "" }[metric.better];
    slider.setAttribute("role", "slider");
    slider.setAttribute("aria-label", `Distribution of ${withUnit(metric)}${better}`);
    slider.setAttribute("aria-valuemin", scale.least);
    slider.setAttribute("aria-valuemax", scale.most);
    slider.setAttribute("aria-valuenow", scale.quantile(0.5));
    slider.setAttribute("aria-valuetext", `median ${formatNumber(metric, scale.quantile(0.5))}`);
  }

  function hover(plot, event) {
    const i = nearest(plot, event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const group = cohort.group[i] ? `, ${groupName(cohort, i)}` : "";
    tip.textContent = `${cohort.keys[i]}${group}: ${valueText(plot.metric, i)}`;
    tip.style.left = `${Math.max(4, Math.min(event.pageX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.pageY + 14}px`;
  }

  function nearest({ strip }, event) {
    const box = strip.canvas.getBoundingClientRect();
    return strip.nearest(event.clientX - box.left, event.clientY - box.top, isShown);
  }

  function valueText(metric, i) {
    const unit = metric.unit ? ` ${metric.unit}` : "", score = metric.z[i] ? `, outlier, z = ${scoreOf(cohort, metric, i)}` : "";
    return `${formatValue(metric, i)}${unit}${score}`;
  }

  function press(plot, event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -25, PageUp: 25, Home: -cohort.count, End: cohort.count };
    const at = plots.indexOf(plot);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const open = plots.filter(({ slider }) => slider.offsetParent !== null || slider === plot.slider);
      const next = open[open.indexOf(plot) + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) focusPlot(next);
    } else if (event.key === "Enter" && view.current >= 0) openReport(cohort, view.current);
    else if (event.key in steps && at >= 0) step(plot, steps[event.key]);
    else return;
    event.preventDefault();
  }

  function step(plot, by) {
    const { values } = plot.metric;
    plot.sorted ??= sorted(Uint32Array.from(values.keys()).filter((i) => !Number.isNaN(values[i])), { values });
    const known = plot.sorted.filter(isShown), at = known.indexOf(view.current);
    if (!known.length) return;
    const start = at < 0 ? Math.floor(known.length / 2) : at + by;
    view.setCurrent(known[Math.min(known.length - 1, Math.max(0, start))]);
  }

  function focusPlot(plot, options) {
    plots.forEach(({ slider }) => { slider.tabIndex = -1; });
    plot.slider.tabIndex = 0;
    plot.slider.focus(options);
  }

  function showCurrent() {
    plots.forEach(({ strip }) => strip.measure());
    for (const { metric, strip, marker, slider } of plots) {
      const at = view.current < 0 ? null : strip.place(view.current);
      marker.hidden = !at;
      if (!at) continue;
      marker.style.left = `${at[0]}px`;
      marker.style.top = `${at[1]}px`;
      slider.setAttribute("aria-valuenow", metric.values[view.current]);
      slider.setAttribute("aria-valuetext", `${cohort.keys[view.current]}: ${valueText(metric, view.current)}`);
    }
  }

  // Only plots in view are drawn.
  function drawVisible() {
    const colors = readColors(document.documentElement), wanted = plots.filter((plot) => plot.isDirty && plot.isVisible);
    wanted.forEach(({ strip }) => strip.measure());
    for (const plot of wanted) {
      plot.strip.draw(colors, isShown, devicePixelRatio);
      plot.isDirty = false;
    }
  }

  function invalidate() {
    plots.forEach((plot) => { plot.isDirty = true; });
    requestAnimationFrame(drawVisible);
  }

  // In light colors, and twice as fine as a screen.
  function drawForPrint() {
    const colors = readColors(document.getElementById("light"));
    plots.forEach(({ strip }) => strip.measure());
    plots.forEach(({ strip }) => strip.width && strip.draw(colors, isShown, 2));
  }

  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    invalidate();
    showCurrent();
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", invalidate);
  place.addEventListener("toggle", showCurrent, true); // a plot that was hidden had no width
  view.on("order", invalidate);
  view.on("current", showCurrent);
  return { invalidate, drawForPrint };
}

function readColors(place) {
  const style = getComputedStyle(place), color = (name) => style.getPropertyValue(`--${name}`).trim();
  const groups = Array.from({ length: MOST_LANES }, (_, lane) => color(`group-${lane}`));
  const names = ["text", "soft", "edge", "pale", "point", "outlier"];
  return { groups, ...Object.fromEntries(names.map((name) => [name, color(name)])) };
}

function addLegend(lanes) {
  const legend = document.getElementById("legend"), sign = (name, text) =>
    legend.append(element("span", {}, element("i", { className: `swatch ${name}` }), text));
  if (lanes.count > 1) lanes.names.forEach((name, lane) => sign(`group-${lane}`, name));
  else sign("point", "subject");
  sign("outlier", "outlier");
  sign("median", "median of all");
}

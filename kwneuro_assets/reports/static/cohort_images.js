// The QC figures of the subjects shown, in their order, a page at a time.

function createImages(cohort, ratings, view) {
  const section = document.getElementById("images"), place = document.getElementById("mosaics");
  const perPage = document.getElementById("per-page"), where = document.getElementById("image-page");
  const buttons = { first: 0, previous: 0, next: 0, last: 0 };
  let page = 0, figures = new Map(), isNear = false, isOld = true;
  for (const name in buttons) {
    buttons[name] = document.getElementById(`image-${name}`);
    buttons[name].addEventListener("click", () =>
      show({ first: 0, previous: page - 1, next: page + 1, last: pages() - 1 }[name]));
  }

  const size = () => Number(perPage.value);
  const pages = () => Math.max(1, Math.ceil(view.order.length / size()));

  // The figures are made when the section comes near the view.
  function show(wanted) {
    page = Math.min(pages() - 1, Math.max(0, wanted));
    isOld = true;
    if (isNear) make();
  }

  function make() {
    isOld = false;
    figures = new Map();
    for (const i of view.order.slice(page * size(), (page + 1) * size())) figures.set(i, createFigure(i));
    place.className = `per-${perPage.value}`;
    place.replaceChildren(...figures.values());
    where.textContent = `Page ${formatCount(page + 1)} of ${formatCount(pages())}`;
    buttons.first.disabled = buttons.previous.disabled = page === 0;
    buttons.next.disabled = buttons.last.disabled = page === pages() - 1;
    markCurrent();
  }

  function createFigure(i) {
    const figure = element("figure", { onclick: () => view.setCurrent(i) }, createImage(i), element("figcaption"));
    refreshCaption(figure, i);
    return figure;
  }

  function createImage(i) {
    const url = imageUrl(cohort, i), absent = (text) => element("div", { className: "absent" }, text);
    if (url === null) return absent("no QC figure");
    const alt = `Mask outline and color FA of ${cohort.keys[i]}`;
    const image = element("img", { loading: "lazy", decoding: "async", alt, src: url });
    image.addEventListener("error", () => image.replaceWith(absent("the QC figure is missing from the store")));
    return image;
  }

  function refreshCaption(figure, i) {
    const url = reportUrl(cohort, i), verdict = ratings.of(i)?.verdict, failed = failedChecks(cohort, i);
    const parts = [url ? element("a", { href: url }, cohort.keys[i]) : cohort.keys[i]];
    if (verdict) parts.push(" ", element("span", { className: `chip ${verdict}` }, verdict));
    if (failed.length) parts.push(" ", element("span", { className: "chip beyond" }, MARKS.failed + failed.join(", ")));
    if (cohort.outlierCount[i]) parts.push(" ", element("span", { className: "chip" }, `\u25c6 ${cohort.outlierCount[i]}`));
    figure.lastChild.replaceChildren(...parts);
  }

  function markCurrent() {
    figures.forEach((figure, i) => {
      figure.classList.toggle("current", i === view.current);
      if (i === view.current) figure.setAttribute("aria-current", "true"); else figure.removeAttribute("aria-current");
    });
  }

  function showCurrent(i) {
    const at = view.position[i];
    if (at >= 0 && Math.floor(at / size()) !== page) show(Math.floor(at / size())); else markCurrent();
    const box = section.getBoundingClientRect();
    const inView = box.top < innerHeight * 0.6 && box.bottom > innerHeight * 0.3;
    if (at >= 0 && inView) figures.get(i)?.scrollIntoView({ block: "nearest" });
  }

  perPage.addEventListener("change", () => show(Math.floor(Math.max(0, view.position[view.current] ?? 0) / size())));
  new IntersectionObserver(([entry]) => {
    isNear = entry.isIntersecting;
    if (isNear && isOld) make();
  }, { rootMargin: "600px" }).observe(section);
  view.on("order", () => show(0));
  view.on("current", showCurrent);
  view.on("rating", (i) => figures.forEach((figure, one) => {
    if (i === undefined || i === one) refreshCaption(figure, one);
  }));
}

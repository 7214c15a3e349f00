// The table: only the cells in view exist, and are filled again as it scrolls.

const ROW = 28; // px, as in cohort.css
const SPARE_ROWS = 4; // above and below the view
const LEAST_WIDTH = 84; // px of a column

function createTable(cohort, ratings, view) {
  const scroller = document.getElementById("scroller"), table = scroller.querySelector("table");
  const columns = createColumns(cohort, ratings), head = table.tHead.rows[0], body = table.tBodies[0];
  const above = spacer(columns.length), below = spacer(columns.length), rows = [];
  let fitted = ""; // the size of the view that the rows were made for
  let width = 0, left = 1; // how many columns exist beside that of the subject, and the first of them
  body.append(above, below);
  scroller.style.setProperty("--rows", Math.max(4, cohort.count));
  table.setAttribute("aria-colcount", columns.length);
  table.prepend(columnWidths(columns));
  table.style.width = `${columns.reduce((width, column) => width + column.width, 0)}px`;
  columns.forEach((column) => head.append(headCell(column, () => sortBy(column))));

  function sortBy(column) {
    const again = view.sorting.column === column;
    const descending = again ? !view.sorting.descending : Boolean(column.downFirst);
    Object.assign(view.sorting, { column, values: column.values(), descending });
    [...head.cells].forEach((cell, k) =>
      cell.setAttribute("aria-sort", columns[k] !== column ? "none" : descending ? "descending" : "ascending"));
    scroller.scrollTop = 0;
    view.update();
  }

  // As many rows and cells as the view has place for.
  function fit() {
    const size = `${scroller.clientWidth} x ${scroller.clientHeight}`;
    if (size === fitted) return;
    fitted = size;
    width = Math.min(columns.length - 1, Math.ceil(scroller.clientWidth / LEAST_WIDTH) + 1);
    rows.splice(0).forEach((row) => row.remove());
    for (let r = Math.ceil(scroller.clientHeight / ROW) + 2 * SPARE_ROWS; r > 0; r--) {
      rows.push(emptyRow(width));
      body.insertBefore(rows.at(-1), below);
    }
    left = 0;
    paint();
  }

  // Moves the cells to the columns in view.
  function placeColumns() {
    let first = 1;
    for (let right = columns[1].width; right < scroller.scrollLeft && first < columns.length - width; first++)
      right += columns[first + 1].width;
    if (first === left) return;
    left = first;
    for (const row of rows) {
      const before = row.cells[1], after = row.cells[width + 2], rest = columns.length - left - width;
      before.hidden = left === 1;
      before.colSpan = Math.max(1, left - 1);
      after.hidden = rest === 0;
      after.colSpan = Math.max(1, rest);
      for (let k = 0; k < width; k++) row.cells[k + 2].setAttribute("aria-colindex", left + k + 1);
    }
  }

  function paint() {
    const { order } = view, length = order.length;
    placeColumns();
    const first = Math.max(0, Math.min(Math.floor(scroller.scrollTop / ROW) - SPARE_ROWS, length - rows.length));
    const used = Math.min(rows.length, length - first);
    above.firstChild.style.height = `${first * ROW}px`;
    below.firstChild.style.height = `${(length - first - used) * ROW}px`;
    rows.forEach((row, r) => {
      row.hidden = r >= used;
      if (r < used) fillRow(row, order[first + r], first + r);
    });
    table.setAttribute("aria-rowcount", length + 1);
    document.getElementById("nothing").hidden = length > 0;
  }

  function fillRow(row, i, at) {
    row.dataset.subject = i;
    row.setAttribute("aria-rowindex", at + 2);
    row.className = `${at % 2 ? "odd" : ""} ${i === view.current ? "current" : ""}`;
    if (i === view.current) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
    fillKey(row.cells[0], i);
    for (let k = 0; k < width; k++) fillCell(row.cells[k + 2], columns[left + k], i);
  }

  function fillCell(cell, column, i) {
    const mark = column.mark(i), text = column.text(i);
    cell.className = `${column.isNumber ? "number" : ""} ${mark && "beyond"} ${column.verdict?.(i) ?? ""}`;
    cell.textContent = mark ? MARKS[mark] + text : text;
    cell.title = mark && column.metric ? `z = ${scoreOf(cohort, column.metric, i)}` : column.isNumber ? "" : text;
  }

  function fillKey(cell, i) {
    const link = cell.firstChild, url = reportUrl(cohort, i);
    link.textContent = link.title = cohort.keys[i];
    if (url) link.href = url; else link.removeAttribute("href");
  }

  function showCurrent() {
    const at = view.position[view.current] ?? -1;
    if (at >= 0) {
      const least = (at + 1) * ROW + head.offsetHeight - scroller.clientHeight;
      if (scroller.scrollTop > at * ROW) scroller.scrollTop = at * ROW;
      else if (scroller.scrollTop < least) scroller.scrollTop = least;
    }
    paint();
  }

  scroller.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  scroller.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor((scroller.clientHeight - head.offsetHeight) / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -cohort.count, End: cohort.count };
    if (event.target !== scroller || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && view.current >= 0) openReport(cohort, view.current);
    else if (event.key in steps) view.move(steps[event.key]);
    else return;
    event.preventDefault();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-subject]");
    if (row) view.setCurrent(Number(row.dataset.subject));
  });
  new ResizeObserver(fit).observe(scroller);
  fit();
  view.on("order", paint);
  view.on("current", showCurrent);
  view.on("rating", paint);
  return { sortBy: (name) => sortBy(columns.find((column) => column.metric?.name === name)) };
}

function openReport(cohort, i) {
  const url = reportUrl(cohort, i);
  if (url) location.href = url;
}

function columnWidths(columns) {
  const group = element("colgroup");
  columns.forEach(({ width }) => { group.append(element("col")); group.lastChild.style.width = `${width}px`; });
  return group;
}

function headCell(column, sort) {
  const button = element("button", { type: "button", title: column.title, onclick: sort }, column.label);
  const cell = element("th", { scope: "col", className: column.isNumber ? "number" : "" }, button);
  cell.setAttribute("aria-sort", "none");
  return cell;
}

// The subject, what is left of the view, the cells in view, and what is right of it.
function emptyRow(width) {
  const outside = () => { const cell = element("td"); cell.setAttribute("aria-hidden", "true"); return cell; };
  const row = element("tr", {}, element("th", { scope: "row" }, element("a", { tabIndex: -1 })), outside());
  for (let k = 0; k < width; k++) row.append(element("td"));
  row.append(outside());
  return row;
}

function spacer(span) {
  const row = element("tr", { className: "spacer" }, element("td", { colSpan: span }));
  row.setAttribute("aria-hidden", "true");
  return row;
}

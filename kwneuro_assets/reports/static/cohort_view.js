// Which subjects are shown, in which order, and which one is current: plots, table and images follow it.

function createView(cohort, ratings) {
  const { count } = cohort, keys = cohort.keys.map((key) => key.toLowerCase());
  const filter = { text: "", beyond: false, check: -1, metric: -1, group: -1, rating: -1 };
  const sorting = { values: null, descending: false }; // values: one number per subject; null for the order of the rows
  const listeners = { order: [], current: [], rating: [] };
  const position = new Int32Array(count); // of each subject in `order`; -1 if it is not shown
  const view = {
    filter, sorting, position, order: new Uint32Array(0), current: -1,
    on: (event, listener) => listeners[event].push(listener),
    emit: (event, ...details) => listeners[event].forEach((listener) => listener(...details)),

    // Filters and sorts again.
    update() {
      performance.mark("update-start");
      view.order = sorted(shownSubjects(), sorting);
      position.fill(-1);
      view.order.forEach((i, at) => { position[i] = at; });
      view.emit("order");
      performance.measure("update", "update-start");
    },

    setCurrent(i) {
      view.current = i;
      view.emit("current", i);
    },

    // The subject some places after the current one; the first or last one beyond the ends.
    move(step) {
      const last = view.order.length - 1;
      if (last < 0) return;
      const at = view.current < 0 || position[view.current] < 0 ? (step > 0 ? -1 : 0) : position[view.current];
      view.setCurrent(view.order[Math.min(last, Math.max(0, at + step))]);
    },

    isFiltered: () => view.order.length < count,
  };

  function shownSubjects() {
    const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const bit = filter.check < 0 ? 0 : 1 << filter.check, z = cohort.metrics[filter.metric]?.z;
    const shown = new Uint32Array(count);
    let length = 0;
    for (let i = 0; i < count; i++) {
      if (filter.beyond && !cohort.flagged[i]) continue;
      if (bit && !(cohort.flagged[i] & bit)) continue;
      if (z && !z[i]) continue;
      if (filter.group >= 0 && cohort.group[i] !== filter.group) continue;
      if (filter.rating >= 0 && ratings.codes[i] !== filter.rating) continue;
      if (!words.every((word) => keys[i].includes(word))) continue;
      shown[length++] = i;
    }
    return shown.slice(0, length);
  }
  return view;
}

// The same subjects in the order of their values; missing values are last in both directions, equal ones in row order.
function sorted(subjects, { values, descending }) {
  if (values === null) return descending ? subjects.reverse() : subjects;
  const known = subjects.filter((i) => !Number.isNaN(values[i]));
  const unknown = subjects.filter((i) => Number.isNaN(values[i]));
  known.sort(descending ? (a, b) => values[b] - values[a] || a - b : (a, b) => values[a] - values[b] || a - b);
  const all = new Uint32Array(subjects.length);
  all.set(known);
  all.set(unknown, known.length);
  return all;
}

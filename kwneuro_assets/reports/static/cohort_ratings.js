// The ratings: those of the last run, and those given in this page, which the browser stores until they are saved.

const VERDICTS = ["good", "doubtful", "exclude"];
const SPACES = /[\s\x1c-\x1f\x85]+/g; // what Python's str.split separates at

// As `cleaned` in qc/ratings.py: one line, no double quote in front, so that it is one cell of a BIDS table.
function cleaned(text) {
  const line = text.replace(SPACES, " ").trim().replace(/^[" ]+/, "");
  return line === "n/a" ? "" : line;
}

function createRatings(cohort) {
  const names = new Map(cohort.keys.map((key, i) => [key, [cohort.participants[i], cohort.sessions?.[i] ?? ""]]));
  const before = new Map(), edits = new Map();
  const codes = new Uint8Array(cohort.count); // 0: not rated; 1, 2, 3: VERDICTS
  const storage = createStorage(`kwneuro-assets ratings: ${cohort.dataset}: ${location.pathname}`);

  for (const [participant, session, verdict, comment, rater, date] of cohort.ratings) {
    const key = session ? `${participant}_${session}` : participant;
    names.set(key, [participant, session]);
    before.set(key, { verdict, comment, rater, date });
  }
  for (const [key, edit] of storage.read()) if (names.has(key) && !isObsolete(edit, before.get(key))) edits.set(key, edit);

  const get = (key) => {
    const rating = edits.has(key) ? edits.get(key) : before.get(key);
    return rating && rating.verdict ? rating : null;
  };
  const refresh = (key) => {
    const i = cohort.index.get(key);
    if (i !== undefined) codes[i] = VERDICTS.indexOf(get(key)?.verdict) + 1;
  };
  names.forEach((_, key) => refresh(key));

  return {
    codes, get,
    of: (i) => get(cohort.keys[i]),
    canRate: (i) => Boolean(cohort.links[i] & IS_SUBJECT),
    unsaved: () => edits.size,
    isStored: () => storage.works,

    // An empty verdict removes the rating.
    set(i, verdict, comment, rater) {
      const key = cohort.keys[i], date = new Date().toISOString().replace(/\.\d+Z$/, "Z");
      const edit = { verdict, comment: verdict ? cleaned(comment) : "", rater: cleaned(rater), date };
      if (isSame(edit, before.get(key))) edits.delete(key); else edits.set(key, edit);
      refresh(key);
      storage.write(edits);
    },

    discard() {
      const keys = [...edits.keys()];
      edits.clear();
      keys.forEach(refresh);
      storage.write(edits);
    },

    // The text that `parse_ratings` in qc/ratings.py reads.
    toTsv() {
      const rated = [...names.keys()].filter(get).sort((a, b) => a < b ? -1 : 1);
      const sessions = rated.some((key) => names.get(key)[1]);
      const row = (participant, session, ...rest) => [participant, ...(sessions ? [session] : []), ...rest];
      const rows = rated.map((key) => {
        const { verdict, comment, rater, date } = get(key);
        return row(...names.get(key), verdict, comment, rater, date);
      });
      rows.unshift(row("participant_id", "session_id", "rating", "comment", "rater", "date"));
      return rows.map((cells) => cells.map((cell) => cell || "n/a").join("\t") + "\n").join("");
    },
  };
}

const isSame = (edit, rating) =>
  edit.verdict === (rating?.verdict ?? "") && edit.comment === (rating?.comment ?? "");

// The file has this rating, or a newer one.
const isObsolete = (edit, rating) => isSame(edit, rating) || Boolean(rating && rating.date > edit.date);

// What the browser stores may be forbidden, full, or written by another page: then the ratings are in memory only.
function createStorage(name) {
  const storage = { works: false, read: () => [], write: () => {} };
  try {
    localStorage.setItem(`${name}: test`, "1");
    localStorage.removeItem(`${name}: test`);
    storage.works = true;
  } catch { return storage; }
  storage.read = () => {
    try {
      return Object.entries(JSON.parse(localStorage.getItem(name) ?? "{}")).filter(([, edit]) =>
        ["verdict", "comment", "rater", "date"].every((field) => typeof edit?.[field] === "string")
        && ["", ...VERDICTS].includes(edit.verdict))
        .map(([key, { verdict, comment, rater, date }]) =>
          [key, { verdict, comment: cleaned(comment), rater: cleaned(rater), date: cleaned(date) }]);
    } catch { return []; }
  };
  storage.write = (edits) => {
    try { localStorage.setItem(name, JSON.stringify(Object.fromEntries(edits))); } catch { storage.works = false; }
  };
  return storage;
}

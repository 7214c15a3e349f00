// One strip plot: each subject is a point at its value, at a height that only separates the points.

const AXIS = 18; // px below the points, for the labels of the axis
const MOST_DISCS = 1000; // points that are drawn as discs
const MOST_LANES = 8; // as many as there are colors; the groups beyond them have one lane together

// Positions between 0 and 1 of all values. The axis ends one range of the central 98 % beyond it, so that one far value
// does not press the others together; what is further away is drawn at the end of the axis.
function createScale(metric) {
  const ascending = metric.values.slice().sort(); // NaN last
  let length = ascending.length;
  while (length && Number.isNaN(ascending[length - 1])) length--;
  if (!length) return null;
  const known = ascending.subarray(0, length);
  const quantile = (p) => {
    const at = p * (known.length - 1), below = Math.floor(at);
    return known[below] + (at - below) * (known[Math.ceil(at)] - known[below]);
  };
  const reach = quantile(0.99) - quantile(0.01), [least, most] = [known[0], known[known.length - 1]];
  const low = reach > 0 ? Math.max(least, quantile(0.01) - reach) : least;
  const high = reach > 0 ? Math.min(most, quantile(0.99) + reach) : most;
  const at = (value) => high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0.5 + 0 * value; // or NaN
  return { low, high, least, most, known, quantile, at };
}

// The lane of each subject: by group, the largest groups first by number, in the order of their names.
function createLanes(cohort) {
  const sizes = new Array(cohort.groups.length + 1).fill(0);
  for (let i = 0; i < cohort.count; i++) sizes[cohort.group[i]]++;
  const groups = sizes.flatMap((size, group) => (group && size ? [group] : []));
  const own = groups.length + (sizes[0] ? 1 : 0) <= MOST_LANES ? groups
    : [...groups].sort((a, b) => sizes[b] - sizes[a] || a - b).slice(0, MOST_LANES - 1).sort((a, b) => a - b);
  const others = own.length < groups.length || (groups.length > 0 && sizes[0] > 0);
  const laneOf = new Uint8Array(sizes.length).fill(own.length);
  own.forEach((group, lane) => { laneOf[group] = lane; });
  const names = [...own.map((group) => cohort.groups[group - 1]), ...(others ? ["others"] : [])];
  const of = Uint8Array.from(cohort.group, (group) => groups.length ? laneOf[group] : 0), count = Math.max(1, names.length);
  const members = Array.from({ length: count }, (_, lane) => Uint32Array.from(of.keys()).filter((i) => of[i] === lane));
  return { names, count, of, members };
}

// A fraction between 0 and 1 for each subject that has no pattern and is the same in every run (Knuth's hash).
function createJitter(count) {
  return Float32Array.from({ length: count }, (_, i) => ((Math.imul(i + 1, 2654435761) >>> 0) % 1000) / 1000);
}

class Strip {
  constructor(cohort, metric, lanes, jitter) {
    Object.assign(this, { cohort, metric, lanes, jitter, scale: createScale(metric) });
    this.laneHeight = lanes.count > 1 ? Math.max(13, Math.min(24, Math.round(110 / lanes.count))) : 52;
    this.height = lanes.count * this.laneHeight + AXIS;
    this.margin = 7; // px left and right, so that marks at the ends are complete
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.canvas.style.height = `${this.height}px`;
  }

  // Before places are asked for: all plots first, as reading after writing makes the browser lay out the page again.
  measure() { this.width = this.canvas.clientWidth; }

  // Where a subject is drawn, in px of the page; null if it has no value.
  place(i) {
    const position = this.scale.at(this.metric.values[i]);
    if (Number.isNaN(position)) return null;
    const height = this.lanes.of[i] + 0.15 + 0.7 * this.jitter[i];
    return [this.margin + position * (this.width - 2 * this.margin), height * this.laneHeight];
  }

  // The subject drawn nearest to a place, at most 12 px away; -1 if there is none.
  nearest(x, y, isShown) {
    let best = -1, least = 144;
    for (let i = 0; i < this.cohort.count; i++) {
      const place = isShown(i) && this.place(i);
      if (!place) continue;
      const distance = (place[0] - x) ** 2 + (place[1] - y) ** 2;
      if (distance < least) { least = distance; best = i; }
    }
    return best;
  }

  draw(colors, isShown, ratio) {
    const { canvas } = this, context = canvas.getContext("2d");
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    if (this.cohort.count > MOST_DISCS) this.drawPixels(context, colors, isShown, ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawAxis(context, colors);
    if (this.cohort.count <= MOST_DISCS) this.drawDiscs(context, colors, isShown);
    this.drawOutliers(context, colors, isShown);
  }

  drawDiscs(context, colors, isShown) {
    const { lanes, metric } = this, radius = this.cohort.count <= 60 ? 3.5 : 2;
    for (const shown of [false, true]) { // those shown lie above the others
      context.globalAlpha = this.cohort.count <= 60 ? 0.85 : 0.5;
      for (let lane = 0; lane < lanes.count; lane++) {
        context.fillStyle = shown ? this.colorOf(lane, colors) : colors.pale;
        context.beginPath();
        for (const i of lanes.members[lane]) {
          const place = !metric.z[i] && isShown(i) === shown && this.place(i);
          if (!place) continue;
          context.moveTo(place[0] + radius, place[1]);
          context.arc(place[0], place[1], radius, 0, 7);
        }
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  // Points of 2 x 2 px, darker where more of them meet: counted first, as 10,000 drawing commands take ten times longer.
  drawPixels(context, colors, isShown, ratio) {
    const { width, height } = context.canvas, size = Math.max(1, Math.round(2 * ratio)), { metric, lanes } = this;
    const counts = [new Uint8Array(width * height), new Uint8Array(width * height)]; // not shown, shown
    for (let i = 0; i < this.cohort.count; i++) {
      const place = !metric.z[i] && this.place(i);
      if (!place) continue;
      const count = counts[isShown(i) ? 1 : 0];
      const [left, top] = place.map((px) => Math.round(px * ratio) - (size >> 1));
      for (let y = top; y < top + size; y++)
        for (let at = y * width + left; at < y * width + left + size; at++) if (count[at] < 255) count[at]++;
    }
    const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    const opacity = Uint8Array.from({ length: 256 }, (_, count) => Math.round(255 * (1 - 0.72 ** count)));
    const pale = blueGreenRed(colors.pale);
    for (let y = 0, at = 0; y < height; y++) {
      const color = blueGreenRed(this.colorOf(Math.min(lanes.count - 1, Math.floor(y / ratio / this.laneHeight)), colors));
      for (let x = 0; x < width; x++, at++) {
        if (counts[1][at]) pixels[at] = opacity[counts[1][at]] << 24 | color;
        else if (counts[0][at]) pixels[at] = opacity[counts[0][at]] << 24 | pale;
      }
    }
    context.putImageData(image, 0, 0);
  }

  colorOf(lane, colors) { return this.lanes.count > 1 ? colors.groups[lane] : colors.point; }

  // Diamonds with an edge: the shape, not the color alone, says that a value is an outlier.
  drawOutliers(context, colors, isShown) {
    const size = this.cohort.count <= 1000 ? 5 : 3.5;
    for (let i = 0; i < this.cohort.count; i++) {
      const place = this.metric.z[i] && this.place(i);
      if (!place) continue;
      const [x, y] = place;
      context.beginPath();
      context.moveTo(x, y - size); context.lineTo(x + size, y); context.lineTo(x, y + size); context.lineTo(x - size, y);
      context.closePath();
      context.fillStyle = isShown(i) ? colors.outlier : colors.pale;
      context.fill();
      context.strokeStyle = isShown(i) ? colors.text : colors.pale;
      context.lineWidth = 0.75;
      context.stroke();
    }
  }

  drawAxis(context, colors) {
    const { scale, metric, margin } = this, base = this.height - AXIS + 0.5, inner = this.width - 2 * margin;
    context.strokeStyle = colors.edge;
    context.fillStyle = colors.soft;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "bottom";
    const line = (x, top) => { context.moveTo(x, top); context.lineTo(x, base); };
    context.beginPath();
    context.moveTo(margin, base);
    context.lineTo(margin + inner, base);
    line(margin + scale.at(scale.quantile(0.5)) * inner, 0); // the median
    context.stroke();
    context.textAlign = "center";
    const better = { higher: "better \u2192", lower: "\u2190 better", neither: "" }[metric.better];
    context.fillText(better, margin + inner / 2, this.height);
    const low = (scale.least < scale.low ? "\u25c2 " : "") + formatNumber(metric, scale.low);
    const high = formatNumber(metric, scale.high) + (scale.most > scale.high ? " \u25b8" : "");
    context.textAlign = "left";
    context.fillText(low, margin, this.height);
    if (scale.high > scale.low) {
      context.textAlign = "right";
      context.fillText(high, margin + inner, this.height);
    }
  }
}

// The lower three bytes of a pixel of ImageData, from a color such as #0072b2.
function blueGreenRed(color) {
  const rgb = parseInt(color.slice(1), 16);
  return (rgb & 0xff) << 16 | (rgb & 0xff00) | rgb >> 16;
}

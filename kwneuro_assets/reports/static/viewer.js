/* The viewer of a subject's report: NiiVue with one background, the outline of the brain mask, and bundles.
 *
 * The volumes are in the page, as JSON in #viewer-data; `viewer_encoding.py` documents them. All are on one grid whose
 * axes point to R, A and S, so voxel indices, sliders and NiiVue's fractions of the field of view correspond directly.
 */
"use strict";

(() => {
  const VOXEL_OFFSET = 352; // bytes of a NIfTI-1 header before the voxels
  const INTENT = 68; // the offset of its intent code
  const LABELS = 1002; // NIFTI_INTENT_LABEL
  const VIEWS = { slices: 3, axial: 0, coronal: 1, sagittal: 2, render: 4 };
  const SIDES = [["left", "right"], ["posterior", "anterior"], ["inferior", "superior"]];
  const LETTERS = ["LR", "PA", "IS"];
  const MASK_COLOR = [255, 90, 54];
  const FULL = 255; // of a color
  const OUTLINE_ONLY = 0.01; // the opacity of a label map of which NiiVue draws the outline alone

  const byId = (id) => document.getElementById(id);
  const root = byId("viewer");
  if (!root) return;

  const problem = missingFeature();
  if (problem) {
    byId("viewer-message").textContent = problem;
    return;
  }
  const data = JSON.parse(byId("viewer-data").textContent);
  const state = { background: 0, voxel: data.shape.map((size) => Math.floor(size / 2)), bundles: new Set() };
  let viewer, backgrounds, mask, bundles, bundleBits;

  start().catch((error) => {
    root.dataset.state = "failed";
    byId("viewer-panel").hidden = true;
    byId("viewer-message").hidden = false;
    byId("viewer-message").textContent = `The viewer does not start: ${error.message}. The figures show the slices.`;
  });

  function missingFeature() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      return "This browser has no WebGL 2, which the viewer needs. The figures show the slices.";
    }
    if (typeof niivue === "undefined") {
      return "The viewer needs the folder .assets beside the report. The figures show the slices.";
    }
    if (typeof DecompressionStream === "undefined") {
      return "This browser is too old for the viewer. The figures show the slices.";
    }
    return "";
  }

  async function start() {
    byId("viewer-message").hidden = true;
    byId("viewer-panel").hidden = false;
    const files = await Promise.all(data.backgrounds.map((one) => unpack(one.nifti)));
    backgrounds = await Promise.all(data.backgrounds.map((one, index) => background(one, files[index])));
    data.backgrounds.forEach((one, index) => {
      one.bytes = new Uint8Array(files[index], VOXEL_OFFSET);
    });
    if (data.mask) mask = await maskOverlay(await unpack(data.mask.nifti));
    if (data.bundles) bundles = await bundleOverlay(await unpack(data.bundles.nifti));
    viewer = new niivue.Niivue({
      backColor: [0.06, 0.08, 0.09, 1],
      crosshairColor: [1, 0.8, 0.2, 0.9],
      crosshairWidth: 0.4,
      crosshairWidthUnit: "percent",
      crosshairGap: 3,
      fontColor: [0.92, 0.95, 0.98, 1],
      show3Dcrosshair: true,
      isRadiologicalConvention: false,
      sagittalNoseLeft: false,
      showAllOrientationMarkers: true,
      fontMinPx: 16,
      atlasOutline: 1,
      isNearestInterpolation: true, // the value under the crosshair is the color that is seen
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
      multiplanarPadPixels: 4,
      dragAndDropEnabled: false,
      scrollRequiresFocus: true,
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      loadingText: "",
      logLevel: "error",
    });
    viewer.onLocationChange = () => {
      state.voxel = data.shape.map((size, axis) =>
        clamp(Math.floor(viewer.scene.crosshairPos[axis] * size), 0, size - 1),
      );
      showLocation();
    };
    viewer.onIntensityChange = showScale; // the window was changed with the mouse
    await viewer.attachToCanvas(byId("viewer-canvas"));
    byId("viewer-canvas").removeAttribute("tabindex"); // the frame around it takes the focus and the keys
    showVolumes();
    viewer.setRenderAzimuthElevation(120, 15);
    bindControls();
    moveTo(data.center);
    root.dataset.state = "ready";
  }

  // Volumes

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function image(buffer, name, colors, opacity, low, high) {
    return niivue.NVImage.new(buffer.slice(0), `${name}.nii`, colors, opacity, null, low, high);
  }

  async function background(one, buffer) {
    return image(buffer, one.name, one.colors === "rgb" ? "gray" : one.colors, 1, ...one.window);
  }

  async function labels(buffer, name, opacity, colors) {
    new DataView(buffer).setInt16(INTENT, LABELS, true);
    const volume = await image(buffer, name, "gray", opacity, 0, colors.length);
    const channel = (index) => [0, ...colors.map((color) => color[index])];
    volume.setColormapLabel({
      R: channel(0),
      G: channel(1),
      B: channel(2),
      A: [0, ...colors.map(() => FULL)],
      I: [0, ...colors.map((_, index) => index + 1)],
      labels: ["", ...colors.map(() => "")],
    });
    return volume;
  }

  async function maskOverlay(buffer) {
    data.mask.bytes = new Uint8Array(buffer.slice(VOXEL_OFFSET));
    return labels(buffer, "mask", OUTLINE_ONLY, [MASK_COLOR]);
  }

  /* One label per voxel, of the chosen bundles; see showBundles. */
  async function bundleOverlay(buffer) {
    bundleBits = new Uint8Array(buffer, VOXEL_OFFSET);
    const [x, y, z] = data.shape;
    const single = new Uint8Array(VOXEL_OFFSET + x * y * z);
    single.set(new Uint8Array(buffer, 0, VOXEL_OFFSET));
    const header = new DataView(single.buffer);
    header.setInt16(40, 3, true); // dim[0]: three axes
    header.setInt16(48, 1, true); // dim[4]: one frame
    return labels(single.buffer, "bundles", 0.6, data.bundles.colors);
  }

  function isIn(bundle, position) {
    const [x, y, z] = data.shape;
    return ((bundleBits[(bundle >> 3) * x * y * z + position] >> (bundle & 7)) & 1) === 1;
  }

  /* Where chosen bundles overlap, the one with the smaller volume is seen. */
  function showBundles() {
    const volume = bundles.img;
    volume.fill(0);
    const volumes = data.bundles.volumes_ml;
    const order = [...state.bundles].sort((one, other) => volumes[other] - volumes[one] || one - other);
    for (const bundle of order) {
      const first = (bundle >> 3) * volume.length;
      const bit = bundle & 7;
      for (let position = 0; position < volume.length; position++) {
        if ((bundleBits[first + position] >> bit) & 1) volume[position] = bundle + 1;
      }
    }
    showVolumes();
  }

  function showVolumes() {
    const overlays = [];
    if (bundles && state.bundles.size) overlays.push(bundles);
    if (mask && byId("viewer-mask").checked) overlays.push(mask);
    viewer.volumes = [backgrounds[state.background], ...overlays];
    viewer.back = viewer.volumes[0];
    viewer.overlays = overlays;
    viewer.updateGLVolume();
  }

  // Location

  function moveTo(voxel) {
    state.voxel = voxel.map((index, axis) => clamp(index, 0, data.shape[axis] - 1));
    viewer.scene.crosshairPos = state.voxel.map((index, axis) => (index + 0.5) / data.shape[axis]);
    viewer.drawScene();
    showLocation();
  }

  function showLocation() {
    const position = state.voxel[0] + data.shape[0] * (state.voxel[1] + data.shape[1] * state.voxel[2]);
    const world = mapped(data.affine, state.voxel);
    ["x", "y", "z"].forEach((axis, index) => {
      byId(`viewer-${axis}`).value = state.voxel[index];
      byId(`viewer-${axis}`).setAttribute("aria-valuetext", place(world[index], SIDES[index]));
      byId(`viewer-${axis}-mm`).textContent = place(world[index], LETTERS[index]);
    });
    byId("viewer-voxel").textContent = mapped(data.to_source, state.voxel).join(", ");
    data.backgrounds.forEach((one) => {
      byId(`viewer-value-${one.name}`).textContent = valueAt(one, position);
    });
    if (data.mask) byId("viewer-value-mask").textContent = data.mask.bytes[position] ? "inside" : "outside";
    if (data.bundles) {
      const found = data.bundles.names.filter((_, bundle) => isIn(bundle, position));
      byId("viewer-value-bundles").textContent = found.join(", ") || "none";
    }
  }

  function valueAt(one, position) {
    if (one.colors === "rgb") {
      const parts = one.bytes.subarray(3 * position, 3 * position + 3);
      return ["L-R", "P-A", "I-S"].map((axis, index) => `${axis} ${(parts[index] / FULL).toFixed(2)}`).join(", ");
    }
    const step = one.bytes[position];
    const bound = (one.clipped[0] && step === 0 && "≤ ") || (one.clipped[1] && step === one.steps && "≥ ") || "";
    const value = one.slope * step + one.intercept;
    return bound + withUnit(value, one.unit);
  }

  function withUnit(value, unit) {
    return `${Number(value.toPrecision(3))}${unit && ` ${unit}`}`;
  }

  function place(millimeters, sides) {
    const rounded = Math.abs(millimeters).toFixed(1);
    return rounded === "0.0" ? "0.0 mm" : `${rounded} mm ${sides[Number(millimeters > 0)]}`;
  }

  function mapped(matrix, voxel) {
    return matrix.slice(0, 3).map((row) => row[3] + row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2]);
  }

  function clamp(value, low, high) {
    return Math.min(high, Math.max(low, value));
  }

  // Controls

  function bindControls() {
    byId("viewer-background").addEventListener("change", (event) => {
      state.background = Number(event.target.value);
      showVolumes();
      showWindow();
    });
    for (const button of root.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button));
    ["x", "y", "z"].forEach((axis, index) => {
      byId(`viewer-${axis}`).max = data.shape[index] - 1;
      byId(`viewer-${axis}`).addEventListener("input", (event) => {
        moveTo(state.voxel.with(index, Number(event.target.value)));
      });
    });
    for (const end of ["low", "high"]) byId(`viewer-${end}`).addEventListener("input", setWindow);
    byId("viewer-opacity").addEventListener("input", setOpacity);
    byId("viewer-solidity").addEventListener("input", setOpacity);
    byId("viewer-mask")?.addEventListener("change", showVolumes);
    byId("viewer-frame").addEventListener("keydown", pressKey, { capture: true });
    if (data.bundles) bindBundles();
    showWindow();
  }

  function bindBundles() {
    const list = byId("viewer-bundles");
    const boxes = [...list.querySelectorAll("input[type=checkbox]")];
    const choose = () => {
      state.bundles = new Set(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
      byId("viewer-chosen").textContent = `${state.bundles.size} of ${boxes.length} shown`;
      showBundles();
    };
    list.addEventListener("change", choose);
    for (const [id, checked] of [["viewer-all", true], ["viewer-none", false]]) {
      byId(id).addEventListener("click", () => {
        for (const box of boxes) if (!box.closest("label").hidden) box.checked = checked;
        choose();
      });
    }
    byId("viewer-filter").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const box of boxes) {
        const label = box.closest("label");
        label.hidden = !label.textContent.toLowerCase().includes(wanted);
      }
    });
  }

  function setView(chosen) {
    for (const button of root.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button === chosen));
    }
    viewer.setSliceType(VIEWS[chosen.dataset.view]);
  }

  function showWindow() {
    const one = data.backgrounds[state.background];
    for (const end of ["low", "high"]) {
      const slider = byId(`viewer-${end}`);
      slider.disabled = one.colors === "rgb";
      slider.min = one.intercept;
      slider.max = one.intercept + one.steps * one.slope;
      slider.step = one.slope;
    }
    showScale();
  }

  /* The colors between the two ends of the window; the values outside have the color of the end. */
  function showScale() {
    const volume = backgrounds[state.background];
    const one = data.backgrounds[state.background];
    const isScale = one.colors !== "rgb";
    for (const [end, value] of [["low", volume.cal_min], ["high", volume.cal_max]]) {
      byId(`viewer-${end}`).value = value;
      byId(`viewer-${end}-value`).textContent = isScale ? withUnit(value, one.unit) : "";
    }
    byId("viewer-scale").hidden = !isScale;
    byId("viewer-axes").hidden = isScale;
    if (!isScale) return;
    const colors = viewer.colormap(one.colors);
    const context = byId("viewer-scale").getContext("2d");
    for (let step = 0; step < 256; step++) {
      context.fillStyle = `rgb(${colors[4 * step]}, ${colors[4 * step + 1]}, ${colors[4 * step + 2]})`;
      context.fillRect(step, 0, 1, 1);
    }
  }

  function setWindow() {
    const volume = backgrounds[state.background];
    const step = data.backgrounds[state.background].slope;
    volume.cal_min = Number(byId("viewer-low").value);
    volume.cal_max = Math.max(Number(byId("viewer-high").value), volume.cal_min + step);
    viewer.updateGLVolume();
    showScale();
  }

  function setOpacity() {
    if (bundles) bundles.opacity = Number(byId("viewer-opacity").value);
    for (const volume of backgrounds) volume.opacity = Number(byId("viewer-solidity").value);
    viewer.updateGLVolume();
  }

  const STEPS = {
    ArrowLeft: [-1, 0, 0],
    ArrowRight: [1, 0, 0],
    ArrowDown: [0, -1, 0],
    ArrowUp: [0, 1, 0],
    PageDown: [0, 0, -1],
    PageUp: [0, 0, 1],
  };

  function pressKey(event) {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const size = event.shiftKey ? 5 : 1;
    if (viewer.opts.sliceType === VIEWS.render) {
      const { renderAzimuth, renderElevation } = viewer.scene;
      viewer.setRenderAzimuthElevation(renderAzimuth - 3 * size * step[0], renderElevation - 3 * size * (step[1] + step[2]));
    } else {
      moveTo(state.voxel.map((index, axis) => index + size * step[axis]));
    }
  }
})();

// The Images view: one image as all models see it. Pictures are taken from the galleries of the lines, so that their
// bytes are in the page once. An image is named in the address; arrows replace it there.

const LABELS = { ng: "NG", ok: "OK", unknown: "not labelled" };

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(text);
  return element;
}

function makeSvg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Where an excess lies on the strips, in per cent: as `charts.py` places it.
function excessPlace(excess) {
  const [low, high, here] = [-2, 8, excess].map((value) => Math.asinh(1.4 * value));
  return 100 * Math.min(Math.max((here - low) / (high - low), 0), 1);
}

function excessWords(excess) {
  if (excess > 0) return `▲ ${excess >= 10 ? "≥ +10" : excess < 0.005 ? "<0.01" : `+${excess.toFixed(2)}`}`;
  return excess <= -10 ? "≤ −10" : excess > -0.005 ? "0.00" : `−${(-excess).toFixed(2)}`;
}

function picturesOf(line) {
  const pictures = all("[data-picture]", line).map((figure) => {
    const excess = figure.dataset.excess.split(" ").map((text) => (text === "" ? null : Number(text)));
    const flagged = excess.filter((value) => value > 0).length;
    return { figure, ...figure.dataset, excess, flagged, of: excess.filter((value) => value !== null).length };
  });
  pictures.sort((a, b) => a.place - b.place);
  const [models, drawn, limits] = ["models", "drawn", "limits"].map((name) => JSON.parse(line.dataset[name]));
  return { line, name: line.dataset.line, models, drawn, limits, pictures };
}

// From the threshold of the first model, which is the one that the verdict names.
const distance = (picture) => Math.abs(picture.excess[0] ?? Number.MAX_VALUE);

const ORDERS = {
  "": (a, b) => a.place - b.place,
  near: (a, b) => distance(a) - distance(b) || a.place - b.place,
  disagree: (a, b) => Math.abs(a.flagged / a.of - 0.5) - Math.abs(b.flagged / b.of - 0.5) || a.place - b.place,
  label: (a, b) => a.label.localeCompare(b.label) || a.place - b.place,
};

function imageView(view) {
  const part = (name) => one(`[data-part=${name}]`, view);
  const lines = all(".view.line").map(picturesOf).filter((line) => line.pictures.length);
  const filters = makeSvg("svg", { class: "unseen", "aria-hidden": "true" });
  view.append(filters);
  const state = { line: null, order: [], at: 0, sort: "", solo: "" };
  const current = () => state.order[state.at];

  for (const line of lines) part("line").append(new Option(line.name, line.name));

  function open(names) {
    const line = lines.find((each) => each.name === names.get("line")) ?? (names.get("line") === null ? lines[0] : null);
    const sort = Object.hasOwn(ORDERS, names.get("sort")) ? names.get("sort") : "";
    const found = line && (names.get("id") === null ? [...line.pictures].sort(ORDERS[sort])[0] : line.pictures.find((each) => each.id === names.get("id")));
    if (!found) {
      lost(names, line ? `There is no picture of “${names.get("id")}” in this report.` : "");
      const shown = line ?? lines[0];
      if (!state.line) openLine(shown, shown.pictures[0], "");
      return;
    }
    state.solo = line.models.includes(names.get("solo")) ? names.get("solo") : "";
    openLine(line, found, sort);
  }

  function openLine(line, picture, sort) {
    if (state.line !== line || state.sort !== sort) {
      Object.assign(state, { line, sort, order: [...line.pictures].sort(ORDERS[sort]) });
      part("line").value = line.name;
      part("sort").value = sort;
      part("up").href = `#${new URLSearchParams({ v: "line", line: line.name })}`;
      film();
      strips();
      limits();
    }
    state.at = state.order.indexOf(picture);
    draw();
  }

  function film() {
    part("film").replaceChildren(...state.order.map((picture, at) => {
      const button = make("button");
      button.type = "button";
      button.title = picture.id;
      button.append(copy(picture), make("span", "", `${picture.label === "unknown" ? "?" : LABELS[picture.label]} ${picture.flagged}/${picture.of}`));
      button.addEventListener("click", () => { state.at = at; moved(); });
      return button;
    }));
  }

  function copy(picture) {
    const image = make("img");
    image.loading = "lazy"; // or all pictures beside the page would be read for the film
    image.src = one("img", picture.figure).src;
    image.alt = "";
    return image;
  }

  function strips() {
    drawStrips(state.line.line);
    const found = one(".strips", state.line.line);
    part("strips").replaceChildren(found ? found.cloneNode(true) : "No scores are in the page.");
    for (const lane of all(".lane", part("strips"))) lane.append(make("i", "me"));
  }

  // A filter for each model that shows only heat above its pixel threshold.
  function limits() {
    filters.replaceChildren(...state.line.limits.map((limit, at) => {
      const filter = makeSvg("filter", { id: `above-${at}`, "color-interpolation-filters": "sRGB", x: 0, y: 0, width: "100%", height: "100%" });
      const parts = makeSvg("feComponentTransfer", {});
      const table = Array.from({ length: 256 }, (_, code) => (limit !== null && code > limit ? 0.8 : 0)).join(" ");
      for (const [channel, values] of [["R", "1"], ["G", "0.6"], ["B", "0.1"], ["A", table]]) {
        parts.append(makeSvg(`feFunc${channel}`, { type: "discrete", tableValues: values }));
      }
      filter.append(makeSvg("feColorMatrix", { values: "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0" }), parts);
      return filter;
    }));
  }

  // Filters that stretch each heat map of an image to the whole scale.
  function ownScales(picture) {
    all("[id^=own-]", filters).forEach((each) => each.remove());
    const peaks = (picture.peaks || "").split(" ").map(Number);
    filters.append(...state.line.drawn.map((_, at) => {
      const filter = one("#inferno").cloneNode(true);
      filter.id = `own-${at}`;
      const stretched = makeSvg("feComponentTransfer", {});
      for (const channel of "RGB") stretched.append(makeSvg(`feFunc${channel}`, { type: "linear", slope: 255 / Math.max(peaks[at], 1) }));
      filter.prepend(stretched);
      return filter;
    }));
  }

  function frame(picture, drawn) {
    const element = make("div", drawn === null ? "frame" : "frame grey");
    element.append(copy(picture));
    if (drawn !== null && drawn >= 0) {
      const heat = make("span", "heat");
      heat.style.setProperty("--k", drawn);
      heat.style.setProperty("--above", `url(#above-${drawn})`);
      heat.style.setProperty("--own", `url(#own-${drawn})`);
      element.append(heat);
    } else if (drawn !== null) element.append(make("span", "missing", "heat map not in this page"));
    const mask = one(".mask", picture.figure);
    if (mask) element.append(mask.cloneNode(true));
    return element;
  }

  function tile(picture, model, at) {
    const excess = picture.excess[at];
    const isFlagged = excess !== null && excess > 0;
    const words = excess === null ? "no score" : excessWords(excess);
    const button = make("button", `tile ${isFlagged ? "flagged" : ""} ${model === state.solo ? "large" : ""}`);
    button.type = "button";
    button.dataset.model = model;
    button.title = model;
    button.setAttribute("aria-label", `${model}, ${excess === null ? "no score" : `excess ${words}, ${isFlagged ? "flagged" : "not flagged"}`}`);
    button.setAttribute("aria-pressed", String(model === state.solo));
    const caption = make("span", "caption");
    caption.append(make("kbd", "", at < 10 ? String((at + 1) % 10) : "·"), make("b", "", model), make("span", "excess", words));
    const gauge = make("span", "gauge");
    gauge.append(make("u"), make("i"));
    gauge.style.setProperty("--limit", `${excessPlace(0)}%`);
    gauge.style.setProperty("--here", `${excessPlace(excess ?? 0)}%`);
    button.append(frame(picture, state.line.drawn.indexOf(model)), caption, gauge);
    button.addEventListener("click", () => { state.solo = state.solo === model ? "" : model; moved(); });
    return button;
  }

  function votes(picture) {
    const box = make("div", "tile votes");
    box.append(make("strong", "", `${picture.flagged} of ${picture.of}`), make("span", "", "models flag this image"));
    if (picture.voting) box.append(make("span", "", `${picture.voting} (the queue goes by these)`));
    if (picture.mistake) box.append(make("span", "note", `${picture.mistake} of ${state.line.models[0]}`));
    if (picture.defect) box.append(make("span", "", `defect type: ${picture.defect}`));
    if (picture.signal) box.append(make("span", "", `looks like: ${picture.signal}`));
    return box;
  }

  function draw() {
    const picture = current();
    const { figure, id, label } = picture;
    part("id").textContent = id;
    part("id").title = id;
    part("label").textContent = LABELS[label];
    part("label").className = `label ${label}`;
    part("position").textContent = `${state.at + 1} of ${state.order.length}`;
    part("before").disabled = state.at === 0;
    part("after").disabled = state.at === state.order.length - 1;
    const tiles = part("tiles");
    for (const name of ["--ratio", "--n", "--h", "--maps"]) tiles.style.setProperty(name, figure.style.getPropertyValue(name));
    columns();
    ownScales(picture);
    const source = make("div", "tile source");
    const caption = make("span", "caption");
    caption.append(make("b", "", "source"));
    source.append(frame(picture, null), caption);
    tiles.classList.toggle("solo", state.solo !== "");
    tiles.replaceChildren(source, ...state.line.models.map((model, at) => tile(picture, model, at)), votes(picture));
    all("button", part("film")).forEach((button, at) => {
      button.setAttribute("aria-current", String(at === state.at));
      if (at === state.at) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    for (const lane of all(".lane", part("strips"))) {
      const excess = picture.excess[state.line.models.indexOf(lane.dataset.model)];
      const circle = one(".me", lane);
      circle.hidden = excess === null;
      circle.style.left = `${excessPlace(excess ?? 0)}%`;
    }
    preload();
    say(`image ${state.at + 1} of ${state.order.length}, ${LABELS[label]}, ${picture.flagged} of ${picture.of} flag it${picture.voting ? `, ${picture.voting}` : ""}`);
  }

  // Fetch the next pictures that lie beside the page before they are asked for.
  function preload() {
    for (const picture of state.order.slice(Math.max(state.at - 2, 0), state.at + 3)) {
      const maps = picture.figure.style.getPropertyValue("--maps").replace(/^url\("?|"?\)$/g, "");
      for (const address of [one("img", picture.figure).getAttribute("src"), maps]) {
        if (address && !address.startsWith("data:")) new Image().src = address;
      }
    }
  }

  // As many columns as fit, but no more than fill the rows evenly. Tall images are narrow, wide ones are broad.
  function columns() {
    const [width, height] = current().figure.style.getPropertyValue("--ratio").split("/").map(Number);
    const least = Math.min(Math.max(190 * Math.sqrt(width / height), 150), 330);
    const tiles = state.line.models.length + 2;
    const most = Math.max(Math.floor((part("tiles").clientWidth + 8) / (least + 8)), 1);
    part("tiles").style.setProperty("--columns", Math.ceil(tiles / Math.ceil(tiles / most)));
  }

  // After a change by hand: draw, and write the address without a new entry in the history.
  function moved() {
    const focused = document.activeElement?.dataset?.model;
    draw();
    if (focused !== undefined) all(".tile", view).find((each) => each.dataset.model === focused)?.focus();
    rewrite({ v: "image", line: state.line.name, id: current().id, sort: state.sort, solo: state.solo });
  }

  function step(by, wanted = () => true) {
    for (let at = state.at + by; at >= 0 && at < state.order.length; at += by) {
      if (!wanted(state.order[at])) continue;
      state.at = at;
      return moved();
    }
  }

  const keysOf = {
    ArrowRight: () => step(1), j: () => step(1), ArrowLeft: () => step(-1), k: () => step(-1),
    n: () => step(1, (picture) => picture.mistake), p: () => step(-1, (picture) => picture.mistake),
    a: () => { state.solo = ""; moved(); },
    m: () => view.classList.toggle("nomask"),
    h: () => view.classList.toggle("noheat"),
    t: () => view.classList.toggle("above"),
    r: () => { part("own").hidden = !view.classList.toggle("own"); },
    l: () => view.classList.toggle("zoom"),
    Escape: () => go({ v: "line", line: state.line.name }),
  };

  function press(key) {
    const model = /^[0-9]$/.test(key) ? state.line.models[(Number(key) + 9) % 10] : undefined;
    if (model !== undefined) {
      state.solo = state.solo === model ? "" : model;
      moved();
    } else if (Object.hasOwn(keysOf, key)) keysOf[key]();
    else return false;
    return true;
  }

  part("tiles").addEventListener("pointermove", (event) => {
    const box = event.target.closest(".frame")?.getBoundingClientRect();
    if (!box) return;
    part("tiles").style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
    part("tiles").style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
  });
  addEventListener("resize", () => { if (state.line && !view.hidden) columns(); });
  part("before").addEventListener("click", () => step(-1));
  part("after").addEventListener("click", () => step(1));
  part("fade").addEventListener("input", (event) => view.style.setProperty("--heat", event.target.value));
  part("line").addEventListener("change", (event) => {
    const line = lines.find((each) => each.name === event.target.value);
    state.solo = line.models.includes(state.solo) ? state.solo : "";
    openLine(line, [...line.pictures].sort(ORDERS[state.sort])[0], state.sort);
    moved();
  });
  part("sort").addEventListener("change", (event) => {
    openLine(state.line, current(), event.target.value);
    moved();
  });
  return { open, press };
}

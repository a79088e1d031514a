// Thresholds that a person moves: recall, false alarms and cost of all models of a line, computed from their scores.

const MISSING = -32768;
const SCALE = 4096; // codes per unit of asinh(excess), see `report.scores`
const moved = { by: null, at: null }; // by: promised, excess or recall; null: the experiment's own thresholds
const onMove = [];

const RULES = {
  promised: { words: (at) => `promised false-alarm rate ${percent(at)}`, low: 0.005, high: 0.5, step: 0.005, start: (line) => line.models[0].budget },
  excess: { words: (at) => `excess ${excessWords(at).replace("▲ ", "")}`, low: -0.98, high: 4, step: 0.02, start: () => 0 },
  recall: { words: (at) => `recall ${percent(at)}`, low: 0.01, high: 1, step: 0.01, start: () => 0.9 },
};

const percent = (share) => `${Number((100 * share).toFixed(1))} %`;
const codeOf = (excess) => Math.round(SCALE * Math.asinh(excess));
const excessOf = (code) => Math.sinh(code / SCALE);

function codesOf(base64) {
  return new Int16Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
}

// The scores of a line's section; null if the page has none.
const scoresOf = (() => {
  const known = new Map();
  return (section) => {
    if (!known.has(section)) {
      const line = section.dataset.scores ? JSON.parse(section.dataset.scores) : null;
      for (const model of line?.models ?? []) Object.assign(model, { excess: codesOf(model.excess), held_out: codesOf(model.held_out) });
      known.set(section, line);
    }
    return known.get(section);
  };
})();

// Draw the ticks of a line's strips, which are not in the page as the scores are. Once.
function drawStrips(section) {
  const line = section && scoresOf(section);
  for (const lane of line ? all(".lane:not([data-drawn])", section) : []) {
    lane.dataset.drawn = "";
    const model = line.models.find((each) => each.model === lane.dataset.model);
    for (const [label, name, top] of [["0", "ok", 520], ["1", "ng", 40], ["2", "unknown", 520]]) {
      const places = new Set();
      model?.excess.forEach((code, at) => {
        if (line.labels[at] === label && code !== MISSING) places.add(Math.round(10 * excessPlace(excessOf(code))));
      });
      one(`path.${name}`, lane).setAttribute("d", [...places].map((place) => `M${place} ${top}v440`).join(""));
    }
  }
}

// Where the rule puts the threshold of a model: { limit, promised }. An image is flagged if its code is above the limit.
function limitOf(line, model, { by, at }) {
  const experiment = { limit: 0, promised: model.promised === null ? null : { value: model.promised } };
  if (by === null) return experiment;
  if (by === "excess") return { limit: codeOf(at), promised: null };
  if (by === "promised") {
    const found = conformal(model.held_out, model.held_out_groups, at);
    return found && { limit: found.limit, promised: found };
  }
  const ng = [...model.excess].filter((code, image) => line.labels[image] === "1" && code !== MISSING).sort((a, b) => b - a);
  return ng.length ? { limit: ng[Math.max(Math.ceil(at * ng.length - 1e-9), 1) - 1] - 1, promised: null } : null;
}

// What a model does at a threshold. costs: { ng, missed, alarm } per 1,000 parts; null if unknown.
function operatingPoint(line, model, rule, costs = null) {
  const found = limitOf(line, model, rule);
  if (!found) return { model: model.model, limit: null };
  const share = (label) => {
    const images = [...model.excess.keys()].filter((at) => line.labels[at] === label && model.excess[at] !== MISSING);
    return shareOf(images.map((at) => model.excess[at] > found.limit), line.groups && images.map((at) => line.groups[at]));
  };
  const [alarms, recall] = [share("0"), share("1")];
  return { model: model.model, ...found, recall, alarms, cost: expectedCost(recall, alarms, costs) };
}

// Cost per 1,000 parts. Its interval is that of the ends of both intervals together, so it is rather too wide.
function expectedCost(recall, alarms, costs) {
  if (!costs || recall.value === null || alarms.value === null) return { value: null };
  const of = (found, false_alarms) => costs.ng * (1 - found) * costs.missed + (1000 - costs.ng) * false_alarms * costs.alarm;
  return { value: of(recall.value, alarms.value), low: of(recall.high, alarms.low), high: of(recall.low, alarms.high) };
}

// Images of a label on one side of the threshold, those farthest from it first, with whether they were there before.
function wrongImages(line, model, limit, label) {
  const isWrong = (code, at) => (label === "1" ? code <= at : code > at);
  return line.ids.flatMap((id, at) => {
    const code = model.excess[at];
    return line.labels[at] === label && code !== MISSING && isWrong(code, limit) ? [{ id, code, isNew: !isWrong(code, 0) }] : [];
  }).sort((a, b) => Math.abs(b.code - limit) - Math.abs(a.code - limit));
}

function moveThresholds(by, at) {
  Object.assign(moved, Object.hasOwn(RULES, by ?? "") && Number.isFinite(at) ? { by, at: Math.min(Math.max(at, RULES[by].low), RULES[by].high) } : { by: null, at: null });
  document.documentElement.classList.toggle("moved", moved.by !== null);
  const banner = one("#moved");
  banner.hidden = moved.by === null;
  one("[data-part=rule]", banner).textContent = moved.by === null ? "" : RULES[moved.by].words(moved.at);
  for (const draw of onMove) draw();
}

// The keys of the experiment file that move a line's thresholds to where they are here; null if it cannot say so.
function experimentText(name, line, { by, at }) {
  const isMoved = line.models[0].promised === null; // by the experiment: excess counts from there
  if (line.from_test ? by !== "promised" : by === "excess" && isMoved) return null;
  const source = line.from_test ? "from: test_ok, " : "";
  return `overrides:\n  ${JSON.stringify(name)}: {threshold: {${source}${by}: ${at}}}`; // a JSON text is YAML, too
}

// A dot with its interval on a scale, as `marks.html.j2` draws it.
function dotMark(name, number, low, high, form) {
  const mark = make("span", "mark");
  const isKnown = number?.value != null;
  const svg = makeSvg("svg", { class: "dot", ...(isKnown ? { role: "img" } : { "aria-hidden": "true" }) });
  const text = isKnown ? form(number.value) : "–";
  if (isKnown) {
    const place = (value) => `${(100 * Math.min(Math.max((value - low) / (high - low), 0), 1)).toFixed(1)}%`;
    const title = makeSvg("title", {});
    title.textContent = `${name} ${text}${number.low === undefined ? "" : `, 95 % interval ${form(number.low)} to ${form(number.high)}`}${number.n ? `, n = ${number.n}` : ""}`;
    svg.append(title);
    if (number.low !== undefined) svg.append(makeSvg("line", { class: "iv", x1: place(number.low), x2: place(number.high), y1: "50%", y2: "50%" }));
    if ((number.high ?? number.value) > high) {
      const edge = makeSvg("svg", { x: "100%", y: "50%" });
      edge.append(makeSvg("path", { d: "M0-4 5 0 0 4z" }));
      svg.append(edge);
    }
    svg.append(makeSvg("circle", { cx: place(number.value), cy: "50%", r: 4 }));
  }
  mark.append(svg, make("span", "n", text));
  return mark;
}

const prices = { ng: "", missed: "", alarm: "" }; // as typed, for all lines
const WRONG_SHOWN = 24;

// The panel of one line.
function thresholdPanel(section) {
  drawStrips(section);
  const panel = one("[data-part=thresholds]", section);
  const line = panel && scoresOf(section);
  if (!line) return null;
  const part = (name) => one(`[data-part=${name}]`, panel);
  const figures = new Map(all("[data-picture]", section).map((figure) => [figure.dataset.id, figure]));
  let chosen = line.models[0].model;

  for (const input of all("[data-price]", panel)) {
    prices[input.dataset.price] ||= input.defaultValue;
    input.addEventListener("input", () => { prices[input.dataset.price] = input.value; draw(); });
  }
  const costs = () => {
    const [ng, missed, alarm] = ["ng", "missed", "alarm"].map((name) => (prices[name] === "" ? NaN : Number(prices[name])));
    return ng >= 0 && ng <= 1000 && missed >= 0 && alarm >= 0 ? { ng, missed, alarm } : null;
  };

  function draw() {
    const rule = RULES[moved.by ?? "promised"];
    for (const radio of all("[name=rule]", panel)) radio.checked = radio.value === (moved.by ?? "");
    const slider = part("slider");
    slider.disabled = moved.by === null;
    for (const [name, value] of [["min", rule.low], ["max", rule.high], ["step", rule.step], ["value", moved.at ?? rule.start(line)]]) slider[name] = value;
    part("at").textContent = moved.by === null ? "the experiment's thresholds" : rule.words(moved.at);
    for (const input of all("[data-price]", panel)) if (document.activeElement !== input) input.value = prices[input.dataset.price];
    const points = line.models.map((model) => operatingPoint(line, model, moved, costs()));
    const dearest = Math.max(...points.map((point) => point.cost?.high ?? 0)) || 1;
    part("rows").replaceChildren(...points.map((point) => row(point, dearest)));
    part("rows").closest("table").classList.toggle("free", costs() === null);
    part("loose").hidden = moved.by === null ? line.models[0].promised !== null : moved.by === "promised";
    const text = moved.by === null ? null : experimentText(section.dataset.line, line, moved);
    part("keep").hidden = text === null;
    part("yaml").textContent = text ?? "";
    wrong(points.find((point) => point.model === chosen));
    drawDisagreement(section, line, moved, figures);
    for (const lane of all(".lane", section)) {
      one(".moved-to", lane)?.remove();
      const point = points.find((each) => each.model === lane.dataset.model);
      if (moved.by === null || point?.limit == null) continue;
      const upright = make("i", "moved-to");
      upright.style.left = `${excessPlace(excessOf(point.limit))}%`;
      lane.append(upright);
    }
  }

  function row(point, dearest) {
    const element = make("tr", point.model === chosen ? "marked" : "");
    const name = make("button", "", point.model);
    name.type = "button";
    name.title = "which images it misses and falsely flags";
    name.addEventListener("click", () => { chosen = point.model; draw(); });
    const head = make("th");
    head.scope = "row";
    head.append(name);
    element.append(head);
    const cell = (label, content) => {
      const td = make("td");
      td.dataset.label = label;
      td.append(content);
      element.append(td);
    };
    if (point.limit === null) {
      cell("threshold", moved.by === "promised" ? "no held-back OK images in this run" : "no NG images");
      return element;
    }
    const { recall, alarms, cost, promised } = point;
    const share = (value) => value.toFixed(3);
    cell("threshold", excessWords(excessOf(point.limit)).replace("▲ ", ""));
    cell("promised", promised ? `${share(promised.value)}${promised.low === undefined ? "" : ` (${share(promised.low)}–${share(promised.high)})`}` : "none");
    cell("recall", dotMark(`${point.model}: recall`, recall, 0, 1, share));
    cell("false alarms", dotMark(`${point.model}: false alarms`, alarms, 0, 0.3, share));
    cell("cost per 1,000", dotMark(`${point.model}: cost per 1,000 parts`, cost, 0, dearest, (value) => String(Number(value.toPrecision(3)))));
    cell("NG found", `${recall.count} of ${recall.n}`);
    cell("NG missed", String(recall.n - recall.count));
    cell("OK flagged", String(alarms.count));
    cell("OK passed", String(alarms.n - alarms.count));
    return element;
  }

  function wrong(point) {
    const model = line.models.find((each) => each.model === chosen);
    const groups = point?.limit == null ? [] : [["1", "missed"], ["0", "falsely flagged"]].map(([label, words]) => [words, wrongImages(line, model, point.limit, label)]);
    part("wrong").replaceChildren(...groups.flatMap(([words, images]) => {
      const head = make("h3", "", `${images.length} ${words} by ${chosen}`);
      const box = make("div", "small-pictures");
      box.append(...images.slice(0, WRONG_SHOWN).map(small));
      if (images.length > WRONG_SHOWN) box.append(make("span", "soft", `and ${images.length - WRONG_SHOWN} more`));
      return [head, box];
    }));
  }

  function small({ id, code, isNew }) {
    const figure = figures.get(id);
    const element = make(figure ? "a" : "span", isNew && moved.by !== null ? "small-picture new" : "small-picture");
    element.title = id;
    if (figure) {
      element.href = one("a", figure).hash;
      element.style.setProperty("--ratio", figure.style.getPropertyValue("--ratio"));
      const image = make("img");
      image.src = one("img", figure).src;
      image.alt = "";
      element.append(image);
    }
    element.append(make("span", "id", id), make("span", "", `${excessWords(excessOf(code))}${isNew && moved.by !== null ? ", new" : ""}`));
    return element;
  }

  for (const radio of all("[name=rule]", panel)) {
    radio.addEventListener("change", () => change(radio.value, radio.value ? RULES[radio.value].start(line) : null));
  }
  part("slider").addEventListener("input", (event) => change(moved.by, Number(event.target.value)));
  function change(by, at) {
    moveThresholds(by || null, at);
    rewrite({ by: moved.by ?? "", at: moved.by === null ? "" : String(moved.at) });
    say(part("at").textContent);
  }
  return draw;
}

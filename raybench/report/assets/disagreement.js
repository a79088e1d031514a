// On which images the models of a line disagree, and which models disagree with each other, at the thresholds as they are moved.

const DIVIDED_SHOWN = 40;
const STRONGEST_TINT = 3 * SCALE; // codes from the threshold

// What each model says of each image: how far above its threshold, in codes; null without a score or a threshold.
function marginsOf(line, rule) {
  return line.models.map((model) => {
    const found = limitOf(line, model, rule);
    return Array.from(model.excess, (code) => (found && code !== MISSING ? code - found.limit : null));
  });
}

// Divided images, those with votes nearest half first, and for each two models on how many images they decide differently.
function disagreement(line, rule) {
  const margins = marginsOf(line, rule);
  const images = line.ids.map((id, at) => {
    const known = margins.map((of) => of[at]).filter((margin) => margin !== null);
    return { at, id, flagged: known.filter((margin) => margin > 0).length, of: known.length };
  }).filter(({ flagged, of }) => flagged > 0 && flagged < of);
  images.sort((a, b) => Math.abs(a.flagged / a.of - 0.5) - Math.abs(b.flagged / b.of - 0.5) || a.at - b.at);
  const differ = (a, b) => a.filter((margin, at) => margin !== null && b[at] !== null && margin > 0 !== b[at] > 0).length;
  return { margins, images, pairs: margins.map((a) => margins.map((b) => differ(a, b))) };
}

function drawDisagreement(section, line, rule, figures) {
  const card = one("[data-part=disagreement]", section);
  if (!card) return;
  const { margins, images, pairs } = disagreement(line, rule);
  const part = (name) => one(`[data-part=${name}]`, card);
  const names = line.models.map(({ model }) => model);
  part("divided").textContent = `${images.length} of ${line.ids.length} images${images.length > DIVIDED_SHOWN ? `, the first ${DIVIDED_SHOWN} shown` : ""}.`;
  const tinted = (margin, words) => {
    const cell = make("td", margin === null ? "" : margin > 0 ? "flagged" : "passed", margin > 0 ? "●" : "");
    if (margin !== null) cell.style.setProperty("--tint", `${(8 + 42 * Math.min(Math.abs(margin) / STRONGEST_TINT, 1)).toFixed(0)}%`);
    cell.title = words;
    return cell;
  };
  part("images").replaceChildren(...images.slice(0, DIVIDED_SHOWN).map(({ at, id, flagged, of }) => {
    const row = make("tr");
    const head = make("th");
    head.scope = "row";
    const figure = figures.get(id);
    const name = make(figure ? "a" : "span", "id", id);
    if (figure) name.href = one("a", figure).hash;
    name.title = id;
    head.append(name);
    const label = ["ok", "ng", "unknown"][line.labels[at]];
    row.append(head, make("td", label, { ok: "OK", ng: "NG", unknown: "?" }[label]), make("td", "votes", `${flagged}/${of}`));
    row.append(...margins.map((margin, model) => tinted(margin[at], `${names[model]}: ${margin[at] === null ? "no score" : margin[at] > 0 ? "flagged" : "not flagged"}`)));
    return row;
  }));
  const most = Math.max(1, ...pairs.flat());
  part("pairs").replaceChildren(...pairs.map((counts, a) => {
    const row = make("tr");
    const head = make("th", "", names[a]);
    head.scope = "row";
    head.title = names[a];
    row.append(head, ...counts.map((count, b) => {
      const cell = make("td", "count", a === b ? "–" : String(count));
      cell.style.setProperty("--tint", `${((40 * count) / most).toFixed(0)}%`);
      cell.title = a === b ? "" : `${names[a]} and ${names[b]} decide differently on ${count} images`;
      return cell;
    }));
    return row;
  }));
}

// The fragment of the address names what is shown: #v=line&line=bottle&model=padim. Values are names, never positions.

// Only the view that is shown is in the document, so that a page of many lines stays quick; in print all are.
const views = all(".view");
const main = one("#main");
views.forEach((view) => view.removeAttribute("id")); // or the browser would scroll to a view that is not shown yet
const filtersOf = {};
let shownView = null;

// What the address asks for; an address of an older report, #line-3, included.
function route() {
  const text = location.hash.slice(1);
  const old = /^line-\d+$/.test(text) && views.find((view) => one(`#${text}`, view));
  if (old) return new URLSearchParams({ v: "line", line: old.dataset.line });
  const names = new URLSearchParams(text);
  if (!names.get("v")) names.set("v", "overview");
  return names;
}

function viewOf(names) {
  return views.find((view) => view.dataset.view === names.get("v")
    && (view.dataset.line === undefined || view.dataset.line === names.get("line")));
}

function attach(isPrinting) {
  const shown = isPrinting ? views : views.filter((view) => !view.hidden);
  shown.filter((view) => view.dataset.view === "line").forEach(drawStrips);
  main.replaceChildren(...shown);
}

function show() {
  const names = route();
  const found = viewOf(names);
  const view = found || views[0];
  lost(found ? "" : names);
  views.forEach((each) => { each.hidden = each !== view; });
  if (shownView !== view) attach(matchMedia("print").matches);
  for (const link of all("[data-to]")) {
    const isCurrent = link.dataset.to === view.dataset.view || (link.dataset.to === "overview" && view.dataset.view === "line");
    link.toggleAttribute("aria-current", isCurrent);
    if (isCurrent) link.setAttribute("aria-current", view.dataset.view === link.dataset.to ? "page" : "true");
  }
  document.title = `${view.dataset.title} · ${one(".brand").textContent} · raybench`;
  if (found && filtersOf[view.dataset.view]) filtersOf[view.dataset.view](names);
  if (found) mark(view, names.get("model"));
  if (names.get("by")) moveThresholds(names.get("by"), Number(names.get("at")));
  if (found && view.dataset.view === "line") showPanel(view);
  if (shownView && shownView !== view) {
    window.scrollTo(0, 0);
    one("h1", view).focus({ preventScroll: true });
  }
  shownView = view;
}

// Say that there is no such view, and offer the line with the most similar name.
function lost(names, text = "") {
  const place = one("#lost");
  place.hidden = !names;
  place.replaceChildren();
  if (!names) return;
  const line = names.get("line");
  place.append(text || (line === null ? "There is no such view in this report." : `There is no line “${line}” in this run.`));
  const near = text || line === null ? null : nearest(line, views.map((view) => view.dataset.line).filter(Boolean));
  if (near === null) return;
  const link = document.createElement("a");
  link.href = `#${new URLSearchParams({ v: "line", line: near })}`;
  link.textContent = near;
  place.append(" Did you mean ", link, "?");
}

function nearest(name, names) {
  const [pairs, best] = [(text) => new Set([...text].map((_, at) => text.slice(at, at + 2).toLowerCase())), { score: 0, name: null }];
  const wanted = pairs(name);
  for (const each of names) {
    const found = pairs(each);
    const shared = [...found].filter((pair) => wanted.has(pair)).length;
    const score = shared / (found.size + wanted.size);
    if (score > best.score) Object.assign(best, { score, name: each });
  }
  return best.name;
}

function mark(view, model) {
  for (const row of all("tr[data-model]", view)) row.classList.toggle("marked", row.dataset.model === model);
}

// Change names in the address without a new entry in the history.
function rewrite(changes) {
  const names = route();
  for (const [name, value] of Object.entries(changes)) value ? names.set(name, value) : names.delete(name);
  history.replaceState(null, "", `#${names}`);
}

function go(names) {
  location.hash = new URLSearchParams(names).toString();
}

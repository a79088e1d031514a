// Everything starts here. Without scripts all views stand below each other.

function theme() {
  const [root, key] = [document.documentElement, "raybench-theme"];
  try { root.dataset.theme = localStorage.getItem(key) || ""; } catch { /* a page from a file may have no storage */ }
  one("#theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem(key, root.dataset.theme); } catch { /* as above */ }
  });
}

function finder(find) {
  const lines = all(".view.line").map((view) => view.dataset.line);
  const open = () => {
    const wanted = find.value.toLowerCase();
    const line = lines.find((name) => name.toLowerCase() === wanted) ?? lines.find((name) => name.toLowerCase().includes(wanted));
    if (!wanted) return;
    if (line === undefined) return say(`no line fits ${find.value}`);
    find.value = "";
    find.dispatchEvent(new Event("input"));
    go({ v: "line", line });
  };
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open();
    if (event.key !== "Escape") return;
    find.value = ""; // or the change that follows would open a line
    find.dispatchEvent(new Event("input"));
  });
  find.addEventListener("change", () => { if (lines.includes(find.value)) open(); });
}

// The panel of the shown line follows the thresholds; it is made when its line is first shown.
const panels = new Map();
function showPanel(view) {
  if (!panels.has(view)) panels.set(view, thresholdPanel(view));
  panels.get(view)?.();
  if (moved.by !== null) rewrite({ by: moved.by, at: String(moved.at) });
}

function help() {
  const dialog = one("#help");
  dialog.open ? dialog.close() : dialog.showModal();
}

function keys(event) {
  if (one("#help").open && event.key !== "?") return; // Esc closes it
  if (event.key === "Escape" && event.target.id === "find") event.target.blur();
  if (isTyping(event.target) || hasModifier(event)) return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  if (shownView.dataset.view === "image" && viewer.press(event.key)) return event.preventDefault();
  if (shownView.dataset.view === "queue" && queue.press(event)) return event.preventDefault();
  if (event.key === "/" && one("#find")) one("#find").focus();
  else if (event.key === "?") help();
  else if (event.key === "Escape" && shownView.dataset.view !== "overview") go({ v: "overview" });
  else return;
  event.preventDefault();
}

// Name pictures beside the page in full. Firefox shares equal style sheets among pages, and would look beside another report.
function nameInFull(figure) {
  const maps = /^url\((files\/.*)\)$/.exec(figure.style.getPropertyValue("--maps"));
  if (maps) figure.style.setProperty("--maps", `url("${new URL(maps[1], document.baseURI)}")`);
}

document.documentElement.classList.add("scripted");
all("[data-picture]").forEach(nameInFull);
theme();
all("table.sortable").forEach(sortable);
all("[data-heat]").forEach(fader);
if (one("#lines")) filtersOf.overview = lineFilter(one("#lines .controls"));
const queue = one("[data-view=queue]") && queueView(one("[data-view=queue]"));
if (queue) filtersOf.queue = queueFilter(one("[data-view=queue]"), queue.refresh);
const viewer = one("[data-view=image]") && imageView(one("[data-view=image]"));
if (viewer) filtersOf.image = viewer.open;
if (one("#find")) finder(one("#find"));
one(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its fragment is not the address of a view
  one("h1", shownView).focus();
});
onMove.push(() => panels.get(shownView)?.());
one("#moved [data-part=reset]").addEventListener("click", () => {
  moveThresholds(null, null);
  rewrite({ by: "", at: "" });
});
one("#help button").addEventListener("click", help);
addEventListener("error", (event) => { // of a picture beside the page, where the page was sent alone
  if (event.target.tagName === "IMG" && one("#alone")) one("#alone").hidden = false;
}, true);
addEventListener("keydown", keys);
addEventListener("hashchange", show);
matchMedia("print").addEventListener("change", (event) => attach(event.matches));
addEventListener("beforeprint", () => attach(true));
addEventListener("afterprint", () => attach(false));
show();

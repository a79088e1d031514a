// Sorting, filters, the heat maps' opacity, and charts drawn when they come into view. Without scripts all is readable.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function sortable(table) {
  const heads = all("thead th", table);
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = all("tbody tr", table).sort((a, b) => compare(key(a, at), key(b, at)) * (up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

// A disturbed time, ~15.2, sorts as a number.
const key = (row, at) => row.cells[at].textContent.trim().replace(/^~(?=\d)/, "");

function compare(a, b) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? -1 : 1;
  return Number.isNaN(x) ? a.localeCompare(b) : x - y;
}

function filters(section) {
  const selects = all("select[data-filter]", section);
  const items = all("[data-item]", section);
  const apply = () => {
    for (const item of items) {
      item.hidden = selects.some(
        (select) => select.value && !(item.dataset[select.dataset.filter] || "").split("\n").includes(select.value),
      );
    }
    const shown = items.filter((item) => !item.hidden).length;
    for (const count of all("[data-count]", section)) count.textContent = `${shown} of ${items.length} shown`;
  };
  selects.forEach((select) => select.addEventListener("change", apply));
}

function slider(input) {
  const section = input.closest("section");
  const apply = () => section.style.setProperty("--heat", input.value);
  input.addEventListener("input", apply);
  apply();
}

// The source lies under its heat map; its bytes are in the page once.
function underlay(stack) {
  const source = stack.previousElementSibling.cloneNode();
  source.alt = "";
  stack.prepend(source);
}

// Which lines are shown, in the table of lines and below it.
function finder(controls) {
  const wanted = controls.querySelector("input");
  const selects = all("select", controls);
  const items = all("[data-line]");
  const sections = items.filter((item) => item.matches("section"));
  const apply = () => {
    const text = wanted.value.toLowerCase();
    for (const item of items) {
      item.hidden = !item.dataset.line.toLowerCase().includes(text)
        || selects.some((select) => select.value && item.dataset[select.dataset.by] !== select.value);
    }
    const shown = sections.filter((section) => !section.hidden).length;
    controls.querySelector("span").textContent = `${shown} of ${sections.length} lines`;
  };
  wanted.addEventListener("input", apply);
  selects.forEach((select) => select.addEventListener("change", apply));
  apply();
}

function draw(place) {
  const figure = JSON.parse(place.querySelector("script").textContent);
  const ink = getComputedStyle(document.body).color;
  figure.layout.font = { ...figure.layout.font, color: ink };
  for (const shape of figure.layout.shapes || []) shape.line.color = ink;
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
}

function chartsInView() {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "200px" });
  all(".chart").forEach((place) => watcher.observe(place));
}

all("table.sortable").forEach(sortable);
all("section[data-line]").forEach(filters);
all(".stack").forEach(underlay);
all("input[type=range]").forEach(slider);
all("#find").forEach(finder);
chartsInView();
document.body.classList.add("scripted");

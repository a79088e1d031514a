// Tables sort by a click on a header: numbers by value, words by name, what is unknown last.

function sortable(table) {
  const heads = all("thead th", table);
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = all("tbody tr", table).map((row) => [row, sortKey(row, at)]);
      rows.sort(([, a], [, b]) => compare(a, b, up ? 1 : -1));
      table.tBodies[0].append(...rows.map(([row]) => row));
    });
  });
}

// A cell that spans several columns belongs to each of them. A disturbed time, ~15.2, sorts as a number.
function sortKey(row, at) {
  let end = 0;
  const cell = [...row.cells].find((each) => (end += each.colSpan) > at);
  if (!cell || cell.colSpan > 1) return "";
  return (cell.dataset.value ?? cell.textContent).trim().replace(/^[~.](?=\d)/, (mark) => (mark === "." ? "0." : ""));
}

function compare(a, b, sign) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return sign * (Number.isNaN(x) ? a.localeCompare(b) : x - y);
}

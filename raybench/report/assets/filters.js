// Which lines the overview shows, and which images the queue shows.

function lineFilter(controls) {
  const [rows, find, count] = [all("#lines tbody tr"), one("#find"), one("#count")];
  const selects = all("select", controls);
  const apply = () => {
    const wanted = (find ? find.value : "").toLowerCase();
    for (const row of rows) {
      row.hidden = !row.dataset.line.toLowerCase().includes(wanted)
        || selects.some((select) => select.value && row.dataset[select.dataset.by] !== select.value);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = shown === rows.length ? "" : shown ? `${shown} of ${rows.length} lines` : "no line fits";
  };
  selects.forEach((select) => select.addEventListener("change", () => {
    rewrite(Object.fromEntries(selects.map((each) => [each.dataset.by, each.value])));
    apply();
  }));
  if (find) find.addEventListener("input", apply);
  return (names) => {
    for (const select of selects) choose(select, names.get(select.dataset.by) ?? "");
    apply();
  };
}

function queueFilter(view, refresh) {
  const [selects, items] = [all("select[data-filter]", view), all("[data-item]", view)];
  const apply = () => {
    for (const item of items) {
      item.hidden = selects.some(
        (select) => select.value && !(item.dataset[select.dataset.filter] || "").split("\n").includes(select.value),
      );
    }
    for (const group of all("[data-group]", view)) group.hidden = !one("[data-item]:not([hidden])", group);
    const shown = items.filter((item) => !item.hidden).length;
    one("[data-count]", view).textContent = shown ? `${shown} of ${items.length} shown` : "nothing fits";
    refresh();
  };
  selects.forEach((select) => select.addEventListener("change", () => {
    rewrite(Object.fromEntries(selects.map((each) => [each.dataset.filter, each.value])));
    apply();
  }));
  return (names) => {
    for (const select of selects) choose(select, names.get(select.dataset.filter) ?? "");
    apply();
  };
}

// Select a value. One that nothing in the page has becomes an option too, so that nothing is shown rather than all.
function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.add(new Option(`${value} (none in this page)`, value));
  select.value = value;
}

// A slider fades the heat maps of a gallery.
function fader(input) {
  const card = input.closest(".card");
  input.addEventListener("input", () => card.style.setProperty("--heat", input.value));
}

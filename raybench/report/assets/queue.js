// The Queue view: a card per image, decided by keys. Pictures are those of the lines' galleries where they are there.

function queueView(view) {
  const part = (name) => one(`[data-part=${name}]`, view);
  const cards = all("[data-item]", view);
  const store = decisionStore(view.dataset.run);
  const undo = [];
  const decisionOn = ({ dataset }) => store.of(dataset.line, dataset.id, dataset.sha256);
  const shown = () => cards.filter((card) => !card.hidden);
  let current = null;
  let isSaved = true;

  const keyOf = (line, id) => JSON.stringify([line, id]);
  const figures = new Map(all("[data-picture]").map((figure) => [keyOf(figure.closest(".view").dataset.line, figure.dataset.id), figure]));
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) picture(target);
  }, { rootMargin: "600px" });

  // Show the picture of a card under the heat map of the named model, once.
  function picture(card) {
    watcher.unobserve(card);
    const figure = figures.get(keyOf(card.dataset.line, card.dataset.id));
    const frame = one(".frame", card);
    if (!figure || one("img", frame)) return;
    for (const name of ["--ratio", "--n", "--h", "--maps"]) frame.style.setProperty(name, figure.style.getPropertyValue(name));
    frame.replaceChildren(...[...one(".frame", figure).children].map((child) => child.cloneNode(true)));
  }

  function select(card, hasFocus = true) {
    current?.removeAttribute("aria-current");
    current = card;
    part("deciding").textContent = card ? card.dataset.id : "no image";
    if (!card) return;
    card.setAttribute("aria-current", "true");
    if (hasFocus) card.focus();
    const found = decisionOn(card);
    part("defect").value = found?.defect_type ?? "";
    part("note").value = found?.note ?? "";
    for (const button of all("[data-decide]", view)) {
      button.setAttribute("aria-pressed", String(found?.decision === button.dataset.decide));
    }
  }

  function decide(decision) {
    if (!current) return;
    keep(current, {
      decision,
      defect_type: decision === "ng" ? part("defect").value.trim() : "",
      note: part("note").value.trim(),
    });
    say(`${current.dataset.id}: ${DECISIONS[decision]}, ${part("done").textContent}`);
    if (!step(1)) select(current);
  }

  function keep(card, decision) {
    undo.push([card, decisionOn(card)]);
    const { line, id, sha256 } = card.dataset;
    store.put(line, id, { ...decision, sha256, decided_by: part("by").value.trim(), decided_at: new Date().toISOString() });
    changed(card);
  }

  // Defect type and note of an image that is decided already change with their fields.
  function amend() {
    const found = current && decisionOn(current);
    if (found) keep(current, { ...found, defect_type: found.decision === "ng" ? part("defect").value.trim() : "", note: part("note").value.trim() });
  }

  function takeBack() {
    const [card, before] = undo.pop() ?? [];
    if (!card) return;
    store.put(card.dataset.line, card.dataset.id, before);
    changed(card);
    select(card);
    say(`taken back: ${card.dataset.id}`);
  }

  function changed(card) {
    isSaved = false;
    mark(card);
    count();
  }

  function mark(card) {
    const found = decisionOn(card);
    const badge = one(".decision", card);
    badge.hidden = !found;
    badge.textContent = found ? [DECISIONS[found.decision], found.defect_type, found.note].filter(Boolean).join(" · ") : "";
    badge.className = `decision ${found?.decision.replace(" ", "-") ?? ""}`;
  }

  function count() {
    const asked = shown();
    part("done").textContent = `${asked.filter(decisionOn).length} of ${asked.length} decided`;
    part("unkept").hidden = store.isKept;
    part("undo").disabled = undo.length === 0;
    part("save").disabled = !cards.some(decisionOn);
  }

  function save() {
    const line = one("select[data-filter=line]", view)?.value ?? "";
    const rows = cards.filter((card) => !line || card.dataset.line === line).flatMap((card) => {
      const found = decisionOn(card);
      const { line: name, id, sha256, label } = card.dataset;
      return found ? [{ ...found, line: name, image_id: id, sha256, label, run: view.dataset.run }] : [];
    });
    if (!rows.length) return say("nothing is decided on this line");
    saveAs(`decisions-${[view.dataset.run, line].filter(Boolean).join("-").replace(/[^\w.-]+/g, "_")}.csv`, csvOf(rows));
    isSaved = true;
    say(`${rows.length} decisions saved`);
  }

  function step(by) {
    const asked = shown();
    const next = asked[current ? asked.indexOf(current) + by : 0];
    if (next) select(next);
    return Boolean(next);
  }

  // The nearest card of the row above or below.
  function stepRow(by) {
    if (!current) return step(1);
    const at = current.getBoundingClientRect();
    const beyond = shown().map((card) => [card, card.getBoundingClientRect()]).filter(([, box]) => (box.top - at.top) * by > 8);
    const row = by > 0 ? beyond[0] : beyond.at(-1);
    if (!row) return;
    const inRow = beyond.filter(([, box]) => Math.abs(box.top - row[1].top) < 8);
    select(inRow.reduce((best, each) => (Math.abs(each[1].left - at.left) < Math.abs(best[1].left - at.left) ? each : best))[0]);
  }

  const keysOf = {
    ArrowRight: () => step(1), j: () => step(1), ArrowLeft: () => step(-1), k: () => step(-1),
    ArrowDown: () => stepRow(1), ArrowUp: () => stepRow(-1),
    o: () => decide("ok"), g: () => decide("ok"), n: () => decide("ng"), u: () => decide("unsure"), b: () => decide("bad picture"),
    z: takeBack, h: () => view.classList.toggle("noheat"),
    d: () => part("defect").focus(),
    Enter: () => { const link = current && one("a.frame", current); if (link) location.hash = link.hash; },
  };

  function press(event) {
    if (!Object.hasOwn(keysOf, event.key) || (event.key === "Enter" && event.target !== current)) return false;
    keysOf[event.key]();
    return true;
  }

  function refresh() {
    if (current?.hidden) select(null);
    if (!current) select(shown()[0] ?? null, false);
    count();
  }

  cards.forEach(mark);
  cards.forEach((card) => {
    watcher.observe(card);
    card.addEventListener("click", (event) => { if (!event.target.closest("a")) select(card); });
  });
  for (const button of all("[data-decide]", view)) button.addEventListener("click", () => decide(button.dataset.decide));
  part("undo").addEventListener("click", takeBack);
  part("save").addEventListener("click", save);
  for (const name of ["defect", "note"]) part(name).addEventListener("change", amend);
  part("bar").addEventListener("submit", (event) => {
    event.preventDefault();
    if (current && document.activeElement === part("defect") && part("defect").value.trim()) decide("ng");
    else current?.focus();
  });
  part("bar").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isTyping(event.target)) { current?.focus(); event.stopPropagation(); }
  });
  try { part("by").value = localStorage.getItem("raybench-decided-by") ?? ""; } catch { store.isKept = false; }
  part("by").addEventListener("change", () => {
    try { localStorage.setItem("raybench-decided-by", part("by").value.trim()); } catch { store.isKept = false; }
  });
  addEventListener("beforeunload", (event) => { if (!store.isKept && !isSaved) event.preventDefault(); });
  return { press, refresh };
}

// What people decide on queued images: kept in this browser by run and line, and saved as a CSV file.

const DECISIONS = { ok: "OK", ng: "NG", unsure: "unsure", "bad picture": "bad picture" };
const CSV_COLUMNS = ["line", "image_id", "sha256", "label", "decision", "defect_type", "note", "decided_by", "decided_at", "run"];

function decisionStore(run) {
  const lines = new Map();
  const store = { isKept: true, of, put };
  const key = (line) => `raybench-decisions/${JSON.stringify([run, line])}`;

  function stored(line) {
    try {
      const entries = JSON.parse(localStorage.getItem(key(line)));
      return new Map(Array.isArray(entries) ? entries.filter(([, each]) => Object.hasOwn(DECISIONS, each?.decision)) : []);
    } catch {
      return new Map(); // nothing is kept, or another program has written there
    }
  }

  // The decision on an image. One on other bytes of the same name is none.
  function of(line, id, sha256) {
    if (!lines.has(line)) lines.set(line, stored(line));
    const found = lines.get(line).get(id);
    return found && (!found.sha256 || !sha256 || found.sha256 === sha256) ? found : null;
  }

  // Keep a decision; null forgets it. Decisions that another tab has kept meanwhile stay.
  function put(line, id, decision) {
    const merged = new Map([...(lines.get(line) ?? []), ...stored(line)]);
    decision ? merged.set(id, decision) : merged.delete(id);
    lines.set(line, merged);
    try {
      localStorage.setItem(key(line), JSON.stringify([...merged]));
    } catch {
      store.isKept = false;
    }
  }
  return store;
}

// Rows of text as CSV, as RFC 4180 has it.
function csvOf(rows) {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [CSV_COLUMNS, ...rows.map((row) => CSV_COLUMNS.map((name) => row[name] ?? ""))]
    .map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function saveAs(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

"use strict";
// Tables: sorted by their headings, filtered, copied and saved as CSV. Without this script they stand as they are.
(() => {
  const LONG = 8; // rows from which on a filter is offered
  const collator = new Intl.Collator("en", { numeric: true });
  const textOf = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const quoted = (text) => (/[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);

  // Numbers before what is none; each cell is read once, not at every comparison.
  function sort(table, index, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keys = [...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[index];
      return { row, number: cell.dataset.value === undefined ? NaN : Number(cell.dataset.value), text: cell.textContent };
    });
    const compare = (a, b) => {
      const [one, other] = [Number.isNaN(a.number), Number.isNaN(b.number)];
      if (one !== other) return one ? 1 : -1;
      return one ? collator.compare(a.text, b.text) : a.number - b.number;
    };
    keys.sort((a, b) => compare(a, b) * (down ? -1 : 1));
    const sorted = document.createDocumentFragment();
    for (const { row } of keys) sorted.append(row);
    table.tBodies[0].append(sorted);
  }

  // Rows that hold every word; the rest are hidden.
  function filter(table, words, count) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean), rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      row.filterText ??= row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => row.filterText.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
  }

  function toCsv(table) {
    const lines = [[...table.tHead.rows[0].cells].map((head) => head.dataset.key)];
    for (const row of table.tBodies[0].rows) if (!row.hidden) lines.push([...row.cells].map(textOf));
    return lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a file that is opened from a disk may have no clipboard
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = "copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  function save(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const table of document.querySelectorAll("table.data")) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, index, head));
      head.append(button);
    });
    const tools = document.getElementById(`${table.id}-tools`);
    tools.hidden = false;
    tools.querySelector(".filter").hidden = table.tBodies[0].rows.length < LONG;
    const [box, count] = [tools.querySelector("input"), tools.querySelector(".count")];
    box.addEventListener("input", () => filter(table, box.value, count));
    tools.querySelector(".copy-table").addEventListener("click", (event) => copy(toCsv(table), event.target));
    tools.querySelector(".save-table").addEventListener("click", () => save(toCsv(table), table.id + ".csv"));
  }
  for (const button of document.querySelectorAll(".copy-code")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button.closest("figure").querySelector("code").textContent, button));
  }
})();

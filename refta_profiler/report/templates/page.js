"use strict";
(() => {
  const valueOf = (cell) => cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
  const textOf = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const quoted = (text) => /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;

  function compare(first, second) {
    const [a, b] = [valueOf(first), valueOf(second)];
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
    return first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
  }

  function sort(table, index, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(a.cells[index], b.cells[index]) * (down ? -1 : 1));
    table.tBodies[0].append(...rows);
  }

  function toCsv(table) {
    const lines = [[...table.tHead.rows[0].cells].map((head) => head.dataset.key)];
    for (const row of table.tBodies[0].rows) lines.push([...row.cells].map(textOf));
    return lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  async function copy(text, button) {
    const area = document.createElement("textarea");
    area.value = text;
    try {
      if (navigator.clipboard) await navigator.clipboard.writeText(text);
      else throw new Error("no clipboard");
    } catch {
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
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, index, head));
      head.append(button);
    });
    const tools = table.parentNode.nextElementSibling;
    tools.hidden = false;
    tools.querySelector(".copy-table").addEventListener("click", (event) => copy(toCsv(table), event.target));
    tools.querySelector(".save-table").addEventListener("click", () => save(toCsv(table), table.id + ".csv"));
  }
  for (const button of document.querySelectorAll(".copy-code")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button.closest("figure").querySelector("code").textContent, button));
  }
})();

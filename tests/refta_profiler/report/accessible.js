// What is seriously wrong for readers who do not see, point or distinguish colours: sentences; empty where nothing is.
(() => {
  const found = [];
  const said = (element) => `${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}.${element.className}: ${element.textContent.trim().slice(0, 40)}`;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const named = (element) =>
    element.getAttribute("aria-label")?.trim() || element.textContent.trim() || [...(element.labels ?? [])].some((label) => label.textContent.trim()) ||
    (element.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => id && document.getElementById(id)?.textContent.trim());

  if (!document.documentElement.lang) found.push("the page has no language");
  if (!document.title) found.push("the page has no title");
  for (const landmark of ["main", "header", "footer", "nav"])
    if (all(landmark).length !== 1) found.push(`${all(landmark).length} ${landmark} instead of one`);

  let level = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) found.push(`a heading of level ${next} after one of ${level}: ${said(heading)}`);
    level = next;
  }
  if (all("h1").length !== 1) found.push("not one h1");

  for (const control of all("a[href], button, input, select, textarea, summary, [role=img], [role=region], section, nav"))
    if (visible(control) && !(control.tagName === "INPUT" || control.tagName === "SELECT" ? [...control.labels].some((label) => label.textContent.trim()) : named(control)))
      found.push(`has no name: ${said(control)}`);
  for (const table of all("table")) {
    if (!table.caption?.textContent.trim()) found.push(`a table without a caption: ${said(table)}`);
    for (const head of table.querySelectorAll("th")) if (!head.scope) found.push(`a header without a scope: ${said(head)}`);
    for (const row of table.tBodies[0].rows) if (row.cells[0].tagName !== "TH") { found.push(`a row without a header: ${said(row)}`); break; }
  }
  for (const image of all("img")) if (!image.alt) found.push(`a picture without a text: ${said(image)}`);
  for (const picture of all("svg")) if (!picture.closest("[role=img], [aria-hidden=true]")) found.push("a drawing that is neither told nor hidden");
  for (const hidden of all("[aria-hidden=true]"))
    if (hidden.matches("a, button, input, select, [tabindex]") || hidden.querySelector("a, button, input, select, [tabindex]"))
      found.push(`can be reached by keyboard, but is hidden from readers: ${said(hidden)}`);
  for (const box of all(".scroll, pre"))
    if (visible(box) && box.scrollWidth > box.clientWidth + 1 && box.tabIndex < 0) found.push(`can be scrolled, but not by keyboard: ${said(box)}`);
  const ids = all("[id]").map((element) => element.id);
  for (const id of new Set(ids.filter((id, index) => ids.indexOf(id) !== index))) found.push(`an id twice: ${id}`);

  // contrast of every text that is seen, on what is drawn behind it
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = channels(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return channels(getComputedStyle(document.documentElement).colorScheme.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "white");
  };
  const luminance = ([r, g, b]) => {
    const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !visible(element) || element.closest(".unseen, .skip")) continue;
    const style = getComputedStyle(element), text = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [luminance(channels(text)), luminance(ground(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05), large = parseFloat(style.fontSize) >= 24;
    const key = `contrast ${ratio.toFixed(2)} of ${text} on ${ground(element)}`;
    if (ratio < (large ? 3 : 4.5) && !seen.has(key)) found.push(`${key}: ${said(element)}`);
    seen.add(key);
  }
  return found;
})()

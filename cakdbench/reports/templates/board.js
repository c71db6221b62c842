"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const filters = document.getElementById("filters");
const tables = [...document.querySelectorAll("table.board")];
const original = new Map(tables.map(table => [table, [...table.tBodies[1].rows]]));

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

/* What a cell is sorted by: measured values come first, then printed ones, then nothing. */
function sortValue(cell, key) {
  if (key === "text") return cell.dataset.value ? [0, cell.dataset.value] : [2, ""];
  const view = filters.elements.view.value;
  const measured = key === "pair" ? (view === "gains" ? cell.dataset.gain : cell.dataset.accuracy) : cell.dataset.value;
  if (measured !== undefined && measured !== "") return [0, Number(measured)];
  const printed = view !== "gains" && filters.elements.printed.checked && cell.dataset.printed;
  return printed ? [1, Number(printed)] : [2, 0];
}

function sortTable(table, head, direction) {
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", other === head ? direction : "none");
  const place = head.cellIndex, sign = direction === "ascending" ? 1 : -1;
  const keyed = original.get(table).map((row, order) => [sortValue(row.cells[place], head.dataset.key), order, row]);
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, "en");
  keyed.sort(([a, i], [b, j]) => a[0] - b[0] || sign * compare(a[1], b[1]) || i - j);
  table.tBodies[1].append(...keyed.map(entry => entry[2]));
}

function sortAgain(table) {
  const head = table.tHead.querySelector('[aria-sort="ascending"], [aria-sort="descending"]');
  if (head) sortTable(table, head, head.getAttribute("aria-sort"));
}

function applyFilters() {
  const fields = filters.elements, sought = fields.search.value.trim().toLowerCase();
  const ticked = name => new Set([...filters.querySelectorAll(`[name="${name}"]:checked`)].map(box => box.value));
  const kinds = ticked("kind"), pairs = ticked("pair"), only = fields.measured.checked;
  document.body.classList.toggle("gains", fields.view.value === "gains");
  document.body.classList.toggle("accuracies", fields.view.value === "accuracies");
  document.body.classList.toggle("unprinted", !fields.printed.checked);
  for (const table of tables) {
    const heads = [...table.tHead.rows[0].cells];
    const shown = heads.map(head => head.dataset.key !== "pair" || (pairs.has(head.dataset.pair) && !(only && head.dataset.empty)));
    for (const row of table.rows) [...row.cells].forEach((cell, place) => { cell.hidden = !shown[place]; });
    for (const row of original.get(table)) {
      const named = row.dataset.name.includes(sought) && (!row.dataset.kind || kinds.has(row.dataset.kind));
      row.hidden = !named || (only && ![...row.cells].some((cell, place) => shown[place] && cell.dataset.accuracy));
    }
    const count = original.get(table).filter(row => !row.hidden).length;
    table.closest("section").querySelector(".count").textContent = filters.hidden ? "" : `${count} of ${original.get(table).length} methods shown`;
    sortAgain(table);
  }
}

function reset() {
  filters.reset();
  for (const table of tables) {
    for (const head of table.tHead.rows[0].cells) head.setAttribute("aria-sort", "none");
    table.tBodies[1].append(...original.get(table));
  }
  applyFilters();
}

function smallTable(heads, rows) {
  const table = element("table", null, element("thead", null, element("tr", null, ...heads.map(head => element("th", head)))));
  table.append(element("tbody", null, ...rows.map(row => element("tr", null, ...row.map(cell => element("td", cell))))));
  const box = element("div", null, table);
  box.className = "scroll";
  return box;
}

function copyable(command) {
  const button = element("button", "Copy");
  button.type = "button";
  button.className = "plain copy";
  button.dataset.copy = command;
  return [element("pre", null, element("code", command)), button];
}

function showDetail(cell) {
  const body = document.getElementById("detail-body");
  document.getElementById("detail-title").textContent = cell.title;
  body.replaceChildren(...cell.notes.map(note => element("p", note)));
  if (cell.runs.length) body.append(element("p", "Measured here:"), smallTable(data.run_heads, cell.runs));
  if (cell.printed.length) body.append(element("p", "Printed in papers, not measured here:"), smallTable(data.printed_heads, cell.printed));
  if (cell.command) body.append(element("p", cell.runs.length ? "To measure the seeds that are missing:" : "To measure it:"), ...copyable(cell.command));
  document.getElementById("detail").showModal();
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with the keyboard";
  }
}

document.addEventListener("click", event => {
  const on = selector => event.target.closest(selector);
  if (on(".sort")) {
    const head = on("th"), now = head.getAttribute("aria-sort");
    const next = now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending";
    sortTable(head.closest("table"), head, next);
  } else if (on("[data-cell]")) showDetail(data.cells[on("[data-cell]").dataset.cell]);
  else if (on("[data-copy]")) copy(on("[data-copy]"));
  else if (on("[data-tick]")) {
    for (const box of on(".group").querySelectorAll("[type=checkbox]")) box.checked = on("[data-tick]").dataset.tick === "all";
    applyFilters();
  } else if (on("#start-over")) reset();
  else if (on(".close") || event.target.id === "detail") document.getElementById("detail").close();
});
filters.addEventListener("input", applyFilters);
filters.addEventListener("submit", event => event.preventDefault());
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
applyFilters();

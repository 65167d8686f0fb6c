"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

function number(metric, value) {
  if (value === null || value === undefined) return "-";
  const { scale, digits } = data.metrics[metric];
  return (value * scale).toFixed(digits);
}

// Sorting: by the data-v of cells, undefined ones last.
function sort(th) {
  const table = th.closest("table"), body = table.tBodies[0];
  const column = th.cellIndex, down = th.getAttribute("aria-sort") === "ascending";
  const value = (row) => row.cells[column].dataset.v;
  const rows = [...body.rows];
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return down ? -order : order;
  });
  body.append(...rows);
  for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
}

function show(title, ...content) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...content);
  byId("dialog").showModal();
}

function rowsOf(pairs) {
  const table = element("table"), body = table.createTBody();
  for (const [name, value] of pairs) {
    const row = body.insertRow();
    row.append(element("th", name, { scope: "row" }), element("td", value));
  }
  return table;
}

function explain(model, key, metric) {
  const entry = data.summary[model][key][metric], of = (value) => number(metric, value);
  const pairs = [
    ["mean over cases", of(entry.mean)],
    ["standard deviation", of(entry.std)],
    ["median", of(entry.median)],
    ["95 % interval of the mean (BCa bootstrap over cases)", entry.ci95[0] === null ? "-" : entry.ci95.map(of).join(" to ")],
    ["cases", entry.n_undefined ? `${entry.n}, undefined in ${entry.n_undefined} more` : entry.n],
  ];
  if (entry.training_std !== null) pairs.push(["standard deviation over trainings", of(entry.training_std)]);
  if (entry.distance !== null) pairs.push(["mean distance to 1", of(entry.distance)]);
  pairs.push(["voxels", data.roi], ...data.folders[model]);
  show(`${data.metrics[metric].text}: ${model}, ${data.classes[key]}`,
    element("p", data.metrics[metric].what), rowsOf(pairs));
}

document.addEventListener("click", (event) => {
  const target = event.target;
  if (target.matches("button.sort")) sort(target.closest("th"));
  else if (target.matches("button.number")) explain(target.dataset.model, target.dataset.key, target.dataset.metric);
  else if (target.matches("button.case")) {
    oneCase(target.textContent);
    byId("cases").scrollIntoView();
  } else if (target.matches("button[data-rank]")) oneCase(ranked(target.dataset.rank));
  else if (target.matches("a.what")) {
    event.preventDefault();
    const heading = byId(target.hash.slice(1));
    show(heading.textContent, element("p", heading.nextElementSibling.textContent));
  } else if (target.matches("dialog, dialog .close")) byId("dialog").close();
});

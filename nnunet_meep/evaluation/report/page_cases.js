// Cases: which one is shown, in which plane, with which outlines.
const pictured = new Set([...document.querySelectorAll(".case-pictures")].map((e) => e.dataset.case));

// Names in the chosen order; cases without a defined value last.
function ordered() {
  const order = byId("pick-order").value;
  if (order === "name") return data.cases;
  return [...new Set([...data.ranked[order], ...data.cases])];
}

function ranked(which) {
  const names = data.ranked[byId("pick-order").value] || data.ranked.dice;
  const rank = { worst: 0, median: Math.floor((names.length - 1) / 2), best: names.length - 1 }[which];
  return names[rank] ?? data.cases[0];
}

function listCases() {
  const chosen = byId("pick-case").value, names = ordered();
  byId("pick-case").replaceChildren(...names.map((name, i) => {
    const rank = byId("pick-order").value === "name" ? "" : `${i + 1}. `;
    return element("option", `${rank}${name}${pictured.has(name) ? " (with pictures)" : ""}`, { value: name });
  }));
  byId("pick-case").value = names.includes(chosen) ? chosen : names[0];
}

// A case that lacks the chosen plane, such as a 2D image, shows its first one.
function showPlane() {
  const name = byId("pick-case").value;
  for (const pictures of document.querySelectorAll(".case-pictures")) {
    pictures.hidden = pictures.dataset.case !== name;
    const figures = [...pictures.children];
    const chosen = figures.find((f) => f.dataset.direction === byId("pick-plane").value) || figures[0];
    for (const figure of figures) figure.hidden = figure !== chosen;
  }
}

function oneCase(name) {
  const index = data.cases.indexOf(name), parts = [element("h3", name)];
  if (!pictured.has(name)) parts.push(element("p", "There are no pictures of this case in this file."));
  for (const [key, title] of Object.entries(data.classes)) {
    parts.push(element("h4", title));
    const table = element("table", undefined, { class: "cards", "aria-label": `${name}, ${title}` });
    const head = table.createTHead().insertRow();
    head.append(element("th", "model", { scope: "col" }));
    for (const metric of data.columns[key])
      head.append(element("th", data.metrics[metric].text, { scope: "col" }));
    const body = table.createTBody();
    for (const model of data.models) {
      const row = body.insertRow();
      row.append(element("th", model, { scope: "row" }));
      for (const metric of data.columns[key])
        row.append(element("td", number(metric, data.values[model][key][metric][index]), { "data-label": data.metrics[metric].text }));
    }
    const scroll = element("div", undefined, { class: "scroll" });
    scroll.append(table);
    parts.push(scroll);
  }
  byId("one-case").replaceChildren(...parts);
  byId("pick-case").value = name;
  showPlane();
  chooseRow(name);
}

function chooseRow(name) {
  for (const row of byId("all-cases").tBodies[0]?.rows || [])
    row.classList.toggle("chosen", row.dataset.case === name);
}

// Very many cases are in a fold, and are not written before it is opened.
const fold = byId("all-cases").closest("details");

function allCases() {
  oneCase(byId("pick-case").value);
  if (fold && !fold.open) return;
  const key = byId("pick-class").value, metric = byId("pick-metric").value, table = byId("all-cases");
  table.replaceChildren(element("caption", `${data.metrics[metric].text}, ${data.classes[key]}`));
  const head = table.createTHead().insertRow();
  for (const name of ["case", ...data.models]) {
    const th = element("th", undefined, { scope: "col" });
    th.append(element("button", name, { class: "sort" }));
    head.append(th);
  }
  const body = table.createTBody();
  data.cases.forEach((name, index) => {
    const row = body.insertRow();
    row.dataset.case = name;
    const th = element("th", undefined, { scope: "row", "data-v": name });
    th.append(element("button", name, { class: "case" }));
    row.append(th);
    for (const model of data.models) {
      const value = data.values[model][key][metric][index];
      row.append(element("td", number(metric, value), { "data-v": value ?? "", "data-label": model }));
    }
  });
  chooseRow(byId("pick-case").value);
}

function metricsOfClass() {
  const chosen = byId("pick-metric").value;
  const metrics = Object.keys(data.values[data.models[0]][byId("pick-class").value]);
  byId("pick-metric").replaceChildren(
    ...metrics.map((m) => element("option", data.metrics[m].text, { value: m })));
  if (metrics.includes(chosen)) byId("pick-metric").value = chosen;
  allCases();
}

for (const [key, title] of Object.entries(data.classes))
  byId("pick-class").append(element("option", title, { value: key }));
byId("pick-case").addEventListener("change", (event) => oneCase(event.target.value));
byId("pick-order").addEventListener("change", listCases);
byId("pick-plane")?.addEventListener("change", showPlane);
for (const input of document.querySelectorAll("input[data-outline]"))
  input.addEventListener("change", () => byId("cases").classList.toggle(`no-${input.dataset.outline}`, !input.checked));
byId("pick-class").addEventListener("change", metricsOfClass);
byId("pick-metric").addEventListener("change", allCases);
fold?.addEventListener("toggle", allCases);
listCases();
metricsOfClass();

// A picker of classes shows one panel of several.
function pickPanel(select) {
  for (const panel of byId(select.dataset.target).children)
    panel.hidden = panel.dataset.key !== select.value;
}

// Reliability: the numbers of the bin at a probability p, of the models that are switched on.
const binAt = (bins, p) => Math.max(0, bins.edges.slice(1).findIndex((edge) => p <= edge));
const share = (value) => (value === null ? "-" : value.toFixed(4));
let readAt; // at first in the highest bin with voxels

function shownModels() {
  const off = new Set(
    [...document.querySelectorAll("input[data-model]:not(:checked)")].map((input) => Number(input.dataset.model)));
  return data.models.filter((_, i) => !off.has(i));
}

function readBin() {
  const key = document.querySelector('.pick-panel[data-target="reliability-panels"]').value;
  const picture = document.querySelector(`#reliability-panels svg[data-key="${CSS.escape(key)}"]`);
  const models = shownModels(), cursor = picture.querySelector(".cursor");
  cursor.setAttribute("width", 0);
  if (!models.length) return byId("readout").replaceChildren();
  readAt ??= Math.max(...models.map((model) => {
    const { edges, count } = data.bins[key][model], i = count.reduce((last, n, j) => (n ? j : last), 0);
    return (edges[i] + edges[i + 1]) / 2;
  }));
  const rangeOf = (model) => {
    const { edges } = data.bins[key][model], i = binAt({ edges }, readAt);
    return `${edges[i].toFixed(3)} to ${edges[i + 1].toFixed(3)}`;
  };
  const oneRange = new Set(models.map(rangeOf)).size === 1; // not with other --bins
  const heads = ["model", ...(oneRange ? [] : ["bin"]), "probability", "frequency", "95 % interval", "voxels"];
  const table = element("table", undefined, { class: "cards" });
  if (oneRange) table.append(element("caption", `bin ${rangeOf(models[0])}`));
  const head = table.createTHead().insertRow();
  for (const text of heads) head.append(element("th", text, { scope: "col" }));
  const body = table.createTBody();
  for (const model of models) {
    const bins = data.bins[key][model], i = binAt(bins, readAt), [from, to] = [bins.edges[i], bins.edges[i + 1]];
    const interval = bins.low[i] === null ? "-" : `${share(bins.low[i])} to ${share(bins.high[i])}`;
    const total = bins.count.reduce((a, b) => a + b, 0);
    const voxels = total ? `${bins.count[i].toLocaleString("en")} (${(100 * bins.count[i] / total).toPrecision(3)} %)` : "0";
    const row = body.insertRow();
    row.append(element("th", model, { scope: "row" }));
    [...(oneRange ? [] : [rangeOf(model)]), share(bins.mean_p[i]), share(bins.mean_y[i]), interval, voxels]
      .forEach((text, k) => {
        const label = heads[k + 1], long = label.length + text.length > 26 ? "long" : "";
        row.append(element("td", text, { "data-label": label, class: `n ${long}` }));
      });
    if (model !== models[0]) continue;
    const [left, size] = [Number(picture.dataset.left), Number(picture.dataset.size)];
    cursor.setAttribute("x", left + size * from);
    cursor.setAttribute("width", size * (to - from));
    picture.setAttribute("aria-valuenow", i + 1);
    picture.setAttribute("aria-valuemax", bins.count.length);
    picture.setAttribute("aria-valuetext", `probability ${share(bins.mean_p[i])}, frequency ${share(bins.mean_y[i])}`);
  }
  const scroll = element("div", undefined, { class: "scroll" });
  scroll.append(table);
  byId("readout").replaceChildren(scroll);
}

function moveBin(picture, key) {
  const { edges } = data.bins[picture.dataset.key][shownModels()[0] ?? data.models[0]];
  const n = edges.length - 1, i = binAt({ edges }, readAt);
  const to = { ArrowLeft: i - 1, ArrowDown: i - 1, ArrowRight: i + 1, ArrowUp: i + 1, Home: 0, End: n - 1 }[key];
  if (to === undefined) return false;
  const bin = Math.min(Math.max(to, 0), n - 1);
  readAt = (edges[bin] + edges[bin + 1]) / 2;
  readBin();
  return true;
}

for (const picture of document.querySelectorAll("#reliability-panels svg")) {
  picture.setAttribute("role", "slider");
  picture.setAttribute("aria-valuemin", 1);
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
    readAt = Math.min(Math.max((x - picture.dataset.left) / picture.dataset.size, 0), 1);
    readBin();
  };
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  picture.addEventListener("keydown", (event) => { if (moveBin(picture, event.key)) event.preventDefault(); });
}
for (const input of document.querySelectorAll("input[data-model]"))
  input.addEventListener("change", () => {
    for (const group of document.querySelectorAll(`#reliability-panels g[data-model="${input.dataset.model}"]`))
      group.toggleAttribute("hidden", !input.checked);
    readBin();
  });
for (const select of document.querySelectorAll(".pick-panel")) {
  select.addEventListener("change", () => { pickPanel(select); readBin(); });
  pickPanel(select);
}
readBin();

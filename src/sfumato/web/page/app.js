// The explorer. It makes requests only to the server of this page, and draws the answers.

const $ = (name) => document.getElementById(name);
const element = (kind, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(kind), fields);
  node.append(...children);
  return node;
};

const state = { tab: "", picture: null, methods: [], job: null, panes: [], bytes: 0 };

// ---------------------------------------------------------------- requests and messages

async function request(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "x-sfumato": state.tab || "new", ...options.headers } });
  if (answer.ok) return answer;
  let reason = `the server answered ${answer.status}`;
  try { reason = (await answer.json()).message || reason; } catch { /* not JSON */ }
  throw new Error(reason);
}

function showMessage(text) {
  $("message").textContent = text.charAt(0).toUpperCase() + text.slice(1);
  $("message").hidden = !text;
}

/** The function, with its errors shown as messages. */
const withMessages = (work) => async (...values) => {
  showMessage("");
  try { return await work(...values); } catch (error) {
    if (error.name !== "AbortError") showMessage(error.message);
    return undefined;
  }
};

// ---------------------------------------------------------------- the picture

async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

const addPicture = withMessages(async (path, options) => {
  stop();
  $("status").textContent = "Predicting the classes …";
  const answer = await (await request(path, { method: "POST", ...options })).json();
  const [seen, blurred] = await Promise.all([loadImage(answer.seen), loadImage(answer.blurred)]);
  state.picture = { ...answer, seen, blurred };
  $("status").textContent = "";
  $("question").hidden = false;
  offerClasses(answer.top);
  $("explain").focus({ preventScroll: true });
});

const upload = (file) => {
  if (state.bytes && file.size > state.bytes) {
    showMessage(`The file is larger than ${Math.floor(state.bytes / 2 ** 20)} MB; make the picture smaller.`);
  } else addPicture("api/pictures", { body: file });
};

function offerClasses(top) {
  const field = $("top");
  field.replaceChildren(field.querySelector("legend"));
  top.forEach((entry, index) => addClass(entry, index === 0));
  offerAgainst();
}

function addClass(entry, checked) {
  const share = entry.share === undefined ? "" : `${(100 * entry.share).toFixed(1)} %`;
  const input = element("input", { type: "radio", name: "target", value: entry.index, checked });
  const label = element("label", {}, input, element("span", { textContent: entry.label }),
    element("span", { className: "share", textContent: share }));
  label.dataset.label = entry.label;
  $("top").append(label);
}

function offerAgainst() {
  const select = $("against");
  const before = select.value;
  select.replaceChildren(select.options[0]);
  for (const label of $("top").querySelectorAll("label")) {
    select.append(element("option", { value: label.querySelector("input").value, textContent: label.dataset.label }));
  }
  select.value = [...select.options].some((option) => option.value === before) ? before : "";
}

// ---------------------------------------------------------------- searching a class by its name

let searches = 0;
let selected = -1;

const search = async () => {
  const text = $("search").value.trim();
  const number = ++searches;
  if (!text) return closeMatches();
  const matches = await (await request(`api/classes?q=${encodeURIComponent(text)}`)).json();
  if (number !== searches) return undefined; // a later search has begun
  selected = -1;
  $("matches").replaceChildren(...matches.map((entry, index) => {
    const option = element("li", { id: `match-${index}`, textContent: entry.label, onmousedown: () => choose(entry) });
    option.role = "option";
    option.setAttribute("aria-selected", "false");
    option.entry = entry;
    return option;
  }));
  $("matches").hidden = !matches.length;
  $("search").setAttribute("aria-expanded", String(matches.length > 0));
  return undefined;
};

function closeMatches() {
  $("matches").hidden = true;
  $("search").setAttribute("aria-expanded", "false");
  $("search").removeAttribute("aria-activedescendant");
}

function choose(entry) {
  const input = [...$("top").querySelectorAll("input")].find((candidate) => Number(candidate.value) === entry.index);
  if (input) input.checked = true;
  else { addClass(entry, true); offerAgainst(); }
  $("search").value = "";
  closeMatches();
}

function moveSelection(step) {
  const options = [...$("matches").children];
  if (!options.length || $("matches").hidden) return;
  selected = (selected + step + options.length) % options.length;
  options.forEach((option, index) => option.setAttribute("aria-selected", String(index === selected)));
  options[selected].scrollIntoView({ block: "nearest" });
  $("search").setAttribute("aria-activedescendant", options[selected].id);
}

// ---------------------------------------------------------------- the question

const method = () => state.methods.find((entry) => entry.name === $("method").value);

function offerSettings() {
  const titles = { steps: "Steps", samples: "Masks", areas: "Areas", game: "Game", layer: "Layer" };
  $("settings").replaceChildren(...Object.entries(method().settings).map(([name, value]) => {
    let input;
    if (name === "game") {
      input = element("select", {}, ...["preserve", "delete", "dual"].map((game) => element("option", { textContent: game })));
    } else {
      const isNumber = typeof value === "number";
      input = element("input", { type: isNumber ? "number" : "text", value: Array.isArray(value) ? value.join(", ") : value });
      if (isNumber) Object.assign(input, { min: 1, step: 1 });
    }
    input.name = name;
    return element("label", {}, element("span", { textContent: titles[name] || name }), input);
  }));
  offerSmallest();
}

function settings() {
  const values = {};
  for (const input of $("settings").querySelectorAll("input, select")) {
    if (input.name === "areas") values.areas = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    else if (input.type === "number") values[input.name] = Number(input.value);
    else if (input.value) values[input.name] = input.value;
  }
  return values;
}

const explain = withMessages(async (keep) => {
  stop();
  const target = $("top").querySelector("input:checked");
  const against = $("against").value;
  const name = target.closest("label").dataset.label;
  const other = against && $("against").selectedOptions[0].textContent;
  const question = {
    picture: state.picture.picture,
    target: Number(target.value),
    against: against === "" ? null : Number(against),
    method: $("method").value,
    settings: settings(),
    keep,
  };
  const pane = newPane(`${name.split(",")[0]}${other ? `, not ${other.split(",")[0]}` : ""} · ${$("method").value}`);
  const { job } = await (await request("api/jobs", { method: "POST", body: JSON.stringify(question) })).json();
  await follow(job, pane);
});

async function follow(job, pane) {
  const abort = new AbortController();
  state.job = { job, abort, pane };
  setBusy(true);
  try {
    const answer = await request(`api/jobs/${job}/events`, { signal: abort.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let incomplete = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (incomplete + value).split("\n");
      incomplete = lines.pop();
      for (const line of lines) if (line) await handle(JSON.parse(line), pane, job);
    }
  } finally {
    if (state.job && state.job.job === job) { state.job = null; setBusy(false); }
  }
}

async function handle(event, pane, job) {
  const bar = $("progress");
  if (event.type === "queued") $("status").textContent = `Waiting for ${event.position} other job(s) …`;
  if (event.type === "step") {
    $("status").textContent = event.steps ? `Step ${event.index} of ${event.steps}` : "Starting …";
    bar.hidden = !event.steps;
    bar.value = event.steps ? event.index / event.steps : 0;
    if (event.masks) await pane.evolve(event);
  }
  if (event.type === "done") {
    $("status").textContent = "Done.";
    bar.hidden = true;
    await pane.finish(event, job);
    if (event.warning) showMessage(`${event.warning}.`);
  }
  if (event.type === "failed" || event.type === "cancelled") {
    bar.hidden = true;
    $("status").textContent = event.type === "failed" ? "" : "Stopped.";
    if (event.type === "failed") showMessage(event.message);
    pane.end();
  }
}

function setBusy(busy) {
  $("stop").disabled = !busy;
  $("explain").disabled = busy;
  offerSmallest();
}

function offerSmallest() {
  $("smallest").disabled = Boolean(state.job) || !method().finds_smallest;
}

function stop() {
  if (!state.job) return;
  const { job, abort, pane } = state.job;
  state.job = null;
  request(`api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
  abort.abort();
  pane.end();
  setBusy(false);
  $("progress").hidden = true;
  $("status").textContent = "Stopped.";
}

// ---------------------------------------------------------------- the answer

const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heat(value) {
  const position = Math.min(0.9999, Math.max(0, value)) * (HEAT.length - 1);
  const low = Math.floor(position);
  return HEAT[low].map((from, channel) => from + (position - low) * (HEAT[low + 1][channel] - from));
}

const LUT = Array.from({ length: 256 }, (_, value) => heat(value / 255));

function pixels(image, width, height) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

class Pane {
  constructor(title, picture) {
    this.node = $("pane").content.firstElementChild.cloneNode(true);
    this.picture = picture;
    this.title = title;
    this.masks = [];
    this.alternatives = [];
    this.restart = 0;
    this.part = (name) => this.node.querySelector(name);
    this.part("h3").textContent = title;
    this.canvas = this.part("canvas");
    this.canvas.width = picture.width;
    this.canvas.height = picture.height;
    this.seen = pixels(picture.seen, picture.width, picture.height);
    this.blurred = pixels(picture.blurred, picture.width, picture.height);
    this.range = this.part("input");
    this.range.addEventListener("input", () => this.draw());
    this.part(".slider").hidden = true;
    this.part(".keep").addEventListener("click", () => {
      this.pinned = !this.pinned;
      this.part(".keep").setAttribute("aria-pressed", String(Boolean(this.pinned)));
    });
    this.draw();
  }

  async evolve(event) {
    this.masks = await this.decode(event.masks);
    this.numbers = { areas: event.areas, values: event.values };
    this.fitSlider();
    this.draw();
  }

  async finish(event, job) {
    this.result = event;
    this.masks = event.masks.length ? await this.decode(event.masks) : [];
    [this.map] = await this.decode([event.map]);
    this.fitSlider();
    this.draw();
    this.plot();
    this.listChannels();
    this.offerSets(job);
    this.offerExports(job);
  }

  end() {
    if (!this.result && !this.masks.length) remove(this);
  }

  decode(urls) {
    const { width, height } = this.picture;
    return Promise.all(urls.map(async (url) => pixels(await loadImage(url), width, height)));
  }

  /** Fit the slider to the number of masks. */
  fitSlider() {
    const last = this.masks.length - 1;
    this.part(".slider").hidden = last < 1;
    if (Number(this.range.max) !== Math.max(0, last)) {
      this.range.max = Math.max(0, last);
      this.range.value = Math.floor(last / 2);
    }
  }

  /** Draw the picture through the mask that the slider points at. */
  draw() {
    const { width, height } = this.picture;
    const view = document.querySelector("input[name=view]:checked").value;
    const index = Number(this.range.value);
    const mask = (this.restart ? this.alternatives[this.restart - 1] : this.masks)[index] || this.map;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const out = image.data;
    const { seen, blurred } = this;
    const values = view === "heat" && this.map ? this.map : mask;
    for (let pixel = 0; pixel < out.length; pixel += 4) {
      const m = values ? values[pixel] / 255 : 1;
      for (let channel = 0; channel < 3; channel += 1) {
        const own = seen[pixel + channel];
        let value = own;
        if (values && view === "overlay") value = own * (0.25 + 0.75 * m) + (channel === 0 ? 46 : 12) * (1 - m);
        else if (values && view === "black") value = own * m;
        else if (values && view === "blur") value = own * m + blurred[pixel + channel] * (1 - m);
        else if (values && view === "heat") value = 0.35 * own + 0.65 * LUT[values[pixel]][channel];
        out[pixel + channel] = value;
      }
      out[pixel + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const caption = this.caption(index);
    this.part("output").textContent = caption;
    this.range.setAttribute("aria-valuetext", caption);
    (this.sets || []).forEach((label, restart) => { label.textContent = this.scoreOf(restart, index).toFixed(2); });
    this.canvas.setAttribute("aria-label", `${this.title}: the picture, ${view}${caption ? `, ${caption}` : ""}`);
    this.mark(index);
  }

  /** The area and the score of a mask, and how far the restarts of its search agree. */
  caption(index) {
    const event = this.result || this.numbers;
    if (!event || !event.areas || !this.masks.length) return "";
    const area = (this.result && this.result.achieved ? this.result.achieved : event.areas)[index];
    const score = this.result ? this.scoreOf(this.restart, index) : event.values[index];
    const agreement = this.result && this.result.agreement ? ` · restarts agree by ${Math.round(100 * this.result.agreement[index])} %` : "";
    return `${(100 * area).toFixed(1)} % · score ${score.toFixed(2)}${agreement}`;
  }

  /** The score of the answer, 0, or of what a restart found, counted from 1. */
  scoreOf(restart, index) {
    return restart ? this.result.alternative_scores[index][restart - 1] : this.result.scores[index];
  }

  /** Offer the sets of the restarts beside the answer. They are decoded when they are chosen. */
  offerSets(job) {
    const { alternatives } = this.result;
    if (!alternatives) return;
    const name = `sets-${job}`;
    this.sets = ["the answer", ...alternatives[0].map((_, number) => `restart ${number + 1}`)].map((title, restart) => {
      const input = element("input", {
        type: "radio", name, checked: !restart, onchange: withMessages(async () => {
          if (restart) this.alternatives[restart - 1] ||= await this.decode(alternatives.map((sets) => sets[restart - 1]));
          if (input.checked) this.restart = restart;
          this.draw();
        }),
      });
      const score = element("span");
      this.part(".sets").append(element("label", {}, input, ` ${title} `, score));
      return score;
    });
    this.part(".sets").hidden = false;
    this.draw();
  }

  /** Plot the score against the area, with a mark at the mask of the slider. */
  plot() {
    const { result } = this;
    const areas = result.curve ? result.curve.areas : result.achieved;
    const scores = result.curve ? result.curve.scores : result.scores;
    if (!areas || areas.length < 2) return;
    const all = [...scores, result.whole, result.blank].filter((value) => value !== undefined);
    const low = Math.min(0, ...all);
    const high = Math.max(...all);
    const x = (area) => 44 + 300 * area;
    const y = (score) => 12 + 120 * (1 - (score - low) / (high - low || 1));
    this.scale = { x, y };
    const line = areas.map((area, index) => `${x(area).toFixed(1)},${y(scores[index]).toFixed(1)}`).join(" ");
    const level = (value, name) => `<line x1="44" x2="344" y1="${y(value)}" y2="${y(value)}" stroke="currentColor"
      stroke-dasharray="4 4" opacity=".6"/><text x="348" y="${y(value) + 4}" fill="currentColor">${name}</text>`;
    const star = result.curve && result.curve.smallest !== null
      ? `<line x1="${x(result.curve.smallest)}" x2="${x(result.curve.smallest)}" y1="12" y2="132" stroke="var(--accent)"/>
         <text x="${x(result.curve.smallest) + 4}" y="22" fill="var(--accent)">a* = ${(100 * result.curve.smallest).toFixed(1)} %</text>` : "";
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((area) => `<text x="${x(area)}" y="148" text-anchor="middle" fill="currentColor">${100 * area} %</text>`).join("");
    this.part(".curve").innerHTML = `<svg viewBox="0 0 400 168" role="img" aria-label="Score against area">
      <line x1="44" x2="344" y1="132" y2="132" stroke="currentColor"/><line x1="44" x2="44" y1="12" y2="132" stroke="currentColor"/>
      ${ticks}<text x="194" y="164" text-anchor="middle" fill="currentColor">area shown</text>
      <text x="40" y="${y(high) + 4}" text-anchor="end" fill="currentColor">${high.toFixed(1)}</text>
      <text x="40" y="${y(low) + 4}" text-anchor="end" fill="currentColor">${low.toFixed(1)}</text>
      ${level(result.whole, "whole")}${result.curve ? level(result.curve.wanted, "wanted") : ""}
      <polyline points="${line}" fill="none" stroke="var(--accent)" stroke-width="2"/>
      ${areas.map((area, index) => `<circle cx="${x(area)}" cy="${y(scores[index])}" r="2.5" fill="var(--accent)"/>`).join("")}
      ${star}<circle class="now" r="6" fill="none" stroke="var(--accent)" stroke-width="2"/></svg>`;
    this.mark(Number(this.range.value));
  }

  /** Mark a mask in the plot. */
  mark(index) {
    const circle = this.part(".now");
    if (!circle || !this.result.achieved) return;
    circle.setAttribute("cx", this.scale.x(this.result.achieved[index]));
    circle.setAttribute("cy", this.scale.y(this.result.scores[index]));
  }

  listChannels() {
    this.part(".channels").replaceChildren(...this.result.channels.map((channel) => {
      const text = `channel ${channel.index}, ${channel.weight.toFixed(2)}`;
      const item = element("li", {}, text);
      if (channel.map) item.prepend(element("img", { src: channel.map, alt: `Where ${text} is active` }));
      return item;
    }));
  }

  offerExports(job) {
    const exports = [["png", "PNG of this view"], ["safetensors", "safetensors"], ["html", "HTML report"]];
    if (this.masks.length) exports.push(["apng", "animated PNG"], ["gif", "GIF"], ["coco", "COCO annotation"]);
    this.part(".exports").replaceChildren(...exports.map(([kind, title]) => element("button", {
      textContent: title,
      onclick: withMessages(async () => (kind === "png" ? this.savePng() : download(job, kind))),
    })));
  }

  savePng() {
    this.canvas.toBlob((blob) => save(blob, "sfumato.png"), "image/png");
  }
}

async function download(job, kind) {
  const answer = await request(`api/jobs/${job}/export/${kind}`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "")?.[1] || kind;
  save(await answer.blob(), name);
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function newPane(title) {
  state.panes.filter((pane) => !pane.pinned).forEach(remove);
  const pane = new Pane(title, state.picture);
  state.panes.push(pane);
  $("panes").append(pane.node);
  $("answers").hidden = false;
  return pane;
}

function remove(pane) {
  pane.node.remove();
  state.panes = state.panes.filter((other) => other !== pane);
  $("answers").hidden = !state.panes.length;
}

// ---------------------------------------------------------------- the start

const start = withMessages(async () => {
  const answer = await (await request("api/tabs", { method: "POST" })).json();
  Object.assign(state, { tab: answer.tab, methods: answer.methods, bytes: answer.limits.bytes });
  $("model").textContent = `${answer.model}, with its ${answer.classes} classes,`;
  $("samples").replaceChildren(...answer.samples.map((name) => element("button", {
    onclick: () => addPicture(`api/pictures?sample=${name}`),
  }, element("img", { src: `samples/${name}`, alt: `Sample: ${name}`, loading: "lazy" }))));
  $("method").replaceChildren(...answer.methods.map(({ name }) => element("option", { textContent: name, value: name })));
  offerSettings();
  document.body.dataset.ready = "yes";
});

$("file").addEventListener("change", (event) => { if (event.target.files[0]) upload(event.target.files[0]); event.target.value = ""; });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) { event.preventDefault(); upload(file); }
});
$("search").addEventListener("input", withMessages(search));
$("search").addEventListener("blur", closeMatches);
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); moveSelection(event.key === "ArrowDown" ? 1 : -1); }
  if (event.key === "Escape") closeMatches();
  if (event.key === "Enter") {
    event.preventDefault();
    const option = $("matches").children[Math.max(0, selected)];
    if (option && !$("matches").hidden) choose(option.entry);
  }
});
$("method").addEventListener("change", offerSettings);
$("explain").addEventListener("click", () => explain(null));
$("smallest").addEventListener("click", () => explain(0.9));
$("stop").addEventListener("click", stop);
$("views").addEventListener("change", () => state.panes.forEach((pane) => pane.draw()));
start();

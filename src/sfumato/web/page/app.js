// The explorer: asks the server that this page came from, and draws what it is answered. Nothing else is ever asked.

const $ = (name) => document.getElementById(name);
const made = (kind, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(kind), fields);
  node.append(...children);
  return node;
};

const state = { tab: "", picture: null, methods: [], job: null, panes: [], bytes: 0 };

// ---------------------------------------------------------------- talking to the server

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "x-sfumato": state.tab || "new", ...options.headers } });
  if (answer.ok) return answer;
  let reason = `the server answered ${answer.status}`;
  try { reason = (await answer.json()).message || reason; } catch { /* it was no JSON */ }
  throw new Error(reason);
}

function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

const trying = (work) => async (...given) => {
  tell("");
  try { return await work(...given); } catch (error) {
    if (error.name !== "AbortError") tell(error.message.charAt(0).toUpperCase() + error.message.slice(1));
    return undefined;
  }
};

// ---------------------------------------------------------------- the picture

async function loaded(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

const show = trying(async (path, options) => {
  stop();
  $("status").textContent = "Looking …";
  const told = await (await ask(path, { method: "POST", ...options })).json();
  const [seen, blurred] = await Promise.all([loaded(told.seen), loaded(told.blurred)]);
  state.picture = { ...told, seen, blurred };
  $("status").textContent = "";
  $("asking").hidden = false;
  offerClasses(told.top);
  $("explain").focus({ preventScroll: true });
});

const upload = (file) => {
  if (state.bytes && file.size > state.bytes) {
    tell(`The file is larger than ${Math.floor(state.bytes / 2 ** 20)} MB; make the picture smaller.`);
  } else show("api/pictures", { body: file });
};

function offerClasses(top) {
  const field = $("top");
  field.replaceChildren(field.querySelector("legend"));
  top.forEach((each, place) => addClass(each, place === 0));
  offerAgainst();
}

function addClass(each, chosen) {
  const share = each.share === undefined ? "" : `${(100 * each.share).toFixed(1)} %`;
  const input = made("input", { type: "radio", name: "target", value: each.index, checked: chosen });
  const label = made("label", {}, input, made("span", { textContent: each.label }),
    made("span", { className: "share", textContent: share }));
  label.dataset.label = each.label;
  $("top").append(label);
}

function offerAgainst() {
  const select = $("against");
  const before = select.value;
  select.replaceChildren(select.options[0]);
  for (const label of $("top").querySelectorAll("label")) {
    select.append(made("option", { value: label.querySelector("input").value, textContent: label.dataset.label }));
  }
  select.value = [...select.options].some((option) => option.value === before) ? before : "";
}

// ---------------------------------------------------------------- finding a class by its name

let searching = 0;
let at = -1;

const search = async () => {
  const words = $("search").value.trim();
  const mine = ++searching;
  if (!words) return close();
  const found = await (await ask(`api/classes?q=${encodeURIComponent(words)}`)).json();
  if (mine !== searching) return undefined;
  at = -1;
  $("found").replaceChildren(...found.map((each, place) => {
    const option = made("li", { id: `found-${place}`, textContent: each.label, onmousedown: () => choose(each) });
    option.role = "option";
    option.setAttribute("aria-selected", "false");
    option.each = each;
    return option;
  }));
  $("found").hidden = !found.length;
  $("search").setAttribute("aria-expanded", String(found.length > 0));
  return undefined;
};

function close() {
  $("found").hidden = true;
  $("search").setAttribute("aria-expanded", "false");
  $("search").removeAttribute("aria-activedescendant");
}

function choose(each) {
  const known = [...$("top").querySelectorAll("input")].find((input) => Number(input.value) === each.index);
  if (known) known.checked = true;
  else { addClass(each, true); offerAgainst(); }
  $("search").value = "";
  close();
}

function move(by) {
  const options = [...$("found").children];
  if (!options.length || $("found").hidden) return;
  at = (at + by + options.length) % options.length;
  options.forEach((option, place) => option.setAttribute("aria-selected", String(place === at)));
  options[at].scrollIntoView({ block: "nearest" });
  $("search").setAttribute("aria-activedescendant", options[at].id);
}

// ---------------------------------------------------------------- the question

function offerSettings() {
  const method = state.methods.find((each) => each.name === $("method").value);
  const words = { steps: "Steps", samples: "Masks", areas: "Areas", game: "Game", layer: "Layer" };
  $("settings").replaceChildren(...Object.entries(method.settings).map(([name, value]) => {
    let input;
    if (name === "game") {
      input = made("select", {}, ...["preserve", "delete", "dual"].map((game) => made("option", { textContent: game })));
    } else {
      const number = typeof value === "number";
      input = made("input", { type: number ? "number" : "text", value: Array.isArray(value) ? value.join(", ") : value });
      if (number) Object.assign(input, { min: 1, step: 1 });
    }
    input.name = name;
    return made("label", {}, made("span", { textContent: words[name] || name }), input);
  }));
  $("smallest").disabled = Boolean(state.job) || !["ExtremalPerturbation", "ExtremalChannels"].includes(method.name);
}

function settings() {
  const said = {};
  for (const input of $("settings").querySelectorAll("input, select")) {
    if (input.name === "areas") said.areas = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    else if (input.type === "number") said[input.name] = Number(input.value);
    else if (input.value) said[input.name] = input.value;
  }
  return said;
}

const explain = trying(async (keep) => {
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
  const { job } = await (await ask("api/jobs", { method: "POST", body: JSON.stringify(question) })).json();
  await follow(job, pane);
});

async function follow(job, pane) {
  const leaving = new AbortController();
  state.job = { job, leaving, pane };
  busy(true);
  try {
    const answer = await ask(`api/jobs/${job}/events`, { signal: leaving.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) await heard(JSON.parse(line), pane, job);
    }
  } finally {
    if (state.job && state.job.job === job) { state.job = null; busy(false); }
  }
}

async function heard(event, pane, job) {
  const bar = $("progress");
  if (event.type === "queued") $("status").textContent = `Waiting for ${event.place} other job(s) …`;
  if (event.type === "step") {
    $("status").textContent = event.steps ? `Step ${event.index} of ${event.steps}` : "Beginning …";
    bar.hidden = !event.steps;
    bar.value = event.steps ? event.index / event.steps : 0;
    if (event.masks) await pane.evolve(event);
  }
  if (event.type === "done") {
    $("status").textContent = "Done.";
    bar.hidden = true;
    await pane.finish(event, job);
    if (event.warning) tell(event.warning.charAt(0).toUpperCase() + event.warning.slice(1) + ".");
  }
  if (event.type === "failed" || event.type === "cancelled") {
    bar.hidden = true;
    $("status").textContent = event.type === "failed" ? "" : "Stopped.";
    if (event.type === "failed") tell(event.message);
    pane.end();
  }
}

function busy(yes) {
  $("stop").disabled = !yes;
  $("explain").disabled = yes;
  offerBusy(yes);
}

function offerBusy(yes) {
  $("smallest").disabled = yes || !["ExtremalPerturbation", "ExtremalChannels"].includes($("method").value);
}

function stop() {
  if (!state.job) return;
  const { job, leaving, pane } = state.job;
  state.job = null;
  ask(`api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
  leaving.abort();
  pane.end();
  busy(false);
  $("progress").hidden = true;
  $("status").textContent = "Stopped.";
}

// ---------------------------------------------------------------- the answer

const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heat(value) {
  const place = Math.min(0.9999, Math.max(0, value)) * (HEAT.length - 1);
  const low = Math.floor(place);
  return HEAT[low].map((from, channel) => from + (place - low) * (HEAT[low + 1][channel] - from));
}

const LUT = Array.from({ length: 256 }, (_, value) => heat(value / 255));

function pixels(picture, width, height) {
  const canvas = made("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

class Pane {
  constructor(title, picture) {
    this.node = $("pane").content.firstElementChild.cloneNode(true);
    this.picture = picture;
    this.title = title;
    this.masks = [];
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
      this.kept = !this.kept;
      this.part(".keep").setAttribute("aria-pressed", String(Boolean(this.kept)));
    });
    this.draw();
  }

  async evolve(event) {
    this.masks = await this.decode(event.masks);
    this.numbers = { areas: event.areas, values: event.values };
    this.slide();
    this.draw();
  }

  async finish(event, job) {
    this.done = event;
    this.masks = event.masks.length ? await this.decode(event.masks) : [];
    [this.map] = await this.decode([event.map]);
    this.slide();
    this.draw();
    this.plot();
    this.list();
    this.offer(job);
  }

  end() {
    if (!this.done && !this.masks.length) remove(this);
  }

  decode(addresses) {
    const { width, height } = this.picture;
    return Promise.all(addresses.map(async (address) => pixels(await loaded(address), width, height)));
  }

  slide() {
    const steps = this.masks.length - 1;
    this.part(".slider").hidden = steps < 1;
    if (Number(this.range.max) !== Math.max(0, steps)) {
      this.range.max = Math.max(0, steps);
      this.range.value = Math.floor(steps / 2);
    }
  }

  /** Draw the picture through the mask that the slider points at. */
  draw() {
    const { width, height } = this.picture;
    const view = document.querySelector("input[name=view]:checked").value;
    const place = Number(this.range.value);
    const mask = this.masks[place] || this.map;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const out = image.data;
    const { seen, blurred } = this;
    const shown = view === "heat" && this.map ? this.map : mask;
    for (let index = 0; index < out.length; index += 4) {
      const m = shown ? shown[index] / 255 : 1;
      for (let channel = 0; channel < 3; channel += 1) {
        const own = seen[index + channel];
        let value = own;
        if (shown && view === "overlay") value = own * (0.25 + 0.75 * m) + (channel === 0 ? 46 : 12) * (1 - m);
        else if (shown && view === "black") value = own * m;
        else if (shown && view === "blur") value = own * m + blurred[index + channel] * (1 - m);
        else if (shown && view === "heat") value = 0.35 * own + 0.65 * LUT[shown[index]][channel];
        out[index + channel] = value;
      }
      out[index + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const words = this.words(place);
    this.part("output").textContent = words;
    this.range.setAttribute("aria-valuetext", words);
    this.canvas.setAttribute("aria-label", `${this.title}: the picture, ${view}${words ? `, ${words}` : ""}`);
    this.point(place);
  }

  words(place) {
    const told = this.done || this.numbers;
    if (!told || !told.areas || !this.masks.length) return "";
    const area = (this.done && this.done.achieved ? this.done.achieved : told.areas)[place];
    const score = this.done ? this.done.scores[place] : told.values[place];
    return `${(100 * area).toFixed(1)} % · score ${score.toFixed(2)}`;
  }

  /** The score against the area, with the point of the slider. */
  plot() {
    const { done } = this;
    const areas = done.curve ? done.curve.areas : done.achieved;
    const scores = done.curve ? done.curve.scores : done.scores;
    if (!areas || areas.length < 2) return;
    const all = [...scores, done.whole, done.blank].filter((value) => value !== undefined);
    const low = Math.min(0, ...all);
    const high = Math.max(...all);
    const x = (area) => 44 + 300 * area;
    const y = (score) => 12 + 120 * (1 - (score - low) / (high - low || 1));
    this.place = { x, y };
    const line = areas.map((area, index) => `${x(area).toFixed(1)},${y(scores[index]).toFixed(1)}`).join(" ");
    const level = (value, name) => `<line x1="44" x2="344" y1="${y(value)}" y2="${y(value)}" stroke="currentColor"
      stroke-dasharray="4 4" opacity=".6"/><text x="348" y="${y(value) + 4}" fill="currentColor">${name}</text>`;
    const star = done.curve && done.curve.smallest !== null
      ? `<line x1="${x(done.curve.smallest)}" x2="${x(done.curve.smallest)}" y1="12" y2="132" stroke="var(--accent)"/>
         <text x="${x(done.curve.smallest) + 4}" y="22" fill="var(--accent)">a* = ${(100 * done.curve.smallest).toFixed(1)} %</text>` : "";
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((area) => `<text x="${x(area)}" y="148" text-anchor="middle" fill="currentColor">${100 * area} %</text>`).join("");
    this.part(".curve").innerHTML = `<svg viewBox="0 0 400 168" role="img" aria-label="Score against area">
      <line x1="44" x2="344" y1="132" y2="132" stroke="currentColor"/><line x1="44" x2="44" y1="12" y2="132" stroke="currentColor"/>
      ${ticks}<text x="194" y="164" text-anchor="middle" fill="currentColor">area shown</text>
      <text x="40" y="${y(high) + 4}" text-anchor="end" fill="currentColor">${high.toFixed(1)}</text>
      <text x="40" y="${y(low) + 4}" text-anchor="end" fill="currentColor">${low.toFixed(1)}</text>
      ${level(done.whole, "whole")}${done.curve ? level(done.curve.wanted, "wanted") : ""}
      <polyline points="${line}" fill="none" stroke="var(--accent)" stroke-width="2"/>
      ${areas.map((area, index) => `<circle cx="${x(area)}" cy="${y(scores[index])}" r="2.5" fill="var(--accent)"/>`).join("")}
      ${star}<circle class="now" r="6" fill="none" stroke="var(--accent)" stroke-width="2"/></svg>`;
    this.point(Number(this.range.value));
  }

  point(place) {
    const now = this.part(".now");
    if (!now || !this.done.achieved) return;
    now.setAttribute("cx", this.place.x(this.done.achieved[place]));
    now.setAttribute("cy", this.place.y(this.done.scores[place]));
  }

  list() {
    this.part(".channels").replaceChildren(...this.done.channels.map((each) => {
      const words = `channel ${each.index}, ${each.weight.toFixed(2)}`;
      const item = made("li", {}, words);
      if (each.map) item.prepend(made("img", { src: each.map, alt: `Where ${words} is active` }));
      return item;
    }));
  }

  offer(job) {
    const exports = [["png", "PNG of this view"], ["safetensors", "safetensors"], ["html", "HTML report"]];
    if (this.masks.length) exports.push(["apng", "animated PNG"], ["gif", "GIF"], ["coco", "COCO annotation"]);
    this.part(".exports").replaceChildren(...exports.map(([kind, words]) => made("button", {
      textContent: words,
      onclick: trying(async () => (kind === "png" ? this.png() : take(job, kind))),
    })));
  }

  png() {
    this.canvas.toBlob((blob) => save(blob, "sfumato.png"), "image/png");
  }
}

async function take(job, kind) {
  const answer = await ask(`api/jobs/${job}/export/${kind}`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "")?.[1] || kind;
  save(await answer.blob(), name);
}

function save(blob, name) {
  const link = made("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function newPane(title) {
  state.panes.filter((pane) => !pane.kept).forEach(remove);
  const pane = new Pane(title, state.picture);
  state.panes.push(pane);
  $("panes").append(pane.node);
  $("answers").hidden = false;
  return pane;
}

function remove(pane) {
  pane.node.remove();
  state.panes = state.panes.filter((each) => each !== pane);
  $("answers").hidden = !state.panes.length;
}

// ---------------------------------------------------------------- the beginning

const begin = trying(async () => {
  const told = await (await ask("api/tabs", { method: "POST" })).json();
  Object.assign(state, { tab: told.tab, methods: told.methods, bytes: told.limits.bytes });
  $("model").textContent = `${told.model}, with its ${told.classes} classes,`;
  $("samples").replaceChildren(...told.samples.map((name) => made("button", {
    onclick: () => show(`api/pictures?sample=${name}`),
  }, made("img", { src: `samples/${name}`, alt: `Sample: ${name}`, loading: "lazy" }))));
  $("method").replaceChildren(...told.methods.map((each) => made("option", { textContent: each.name, value: each.name })));
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
$("search").addEventListener("input", trying(search));
$("search").addEventListener("blur", close);
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); move(event.key === "ArrowDown" ? 1 : -1); }
  if (event.key === "Escape") close();
  if (event.key === "Enter") {
    event.preventDefault();
    const option = $("found").children[Math.max(0, at)];
    if (option && !$("found").hidden) choose(option.each);
  }
});
$("method").addEventListener("change", offerSettings);
$("explain").addEventListener("click", () => explain(null));
$("smallest").addEventListener("click", () => explain(0.9));
$("stop").addEventListener("click", stop);
$("views").addEventListener("change", () => state.panes.forEach((pane) => pane.draw()));
begin();

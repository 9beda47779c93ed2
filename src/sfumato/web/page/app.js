// The explorer. It makes requests only to the server of this page. Answers are drawn by the panel of reports, in report.js.

import { areasField } from "./areas.js";
import { BoxField, maskOf } from "./box.js";
import { $, element, loadImage } from "./dom.js";

const MOST_ANSWERS = 24; // as many as the server keeps of a tab
const NARROW = "(max-width: 46rem)";
const state = { tab: "", models: [], model: 0, picture: null, other: null, mask: null, methods: [], scores: [], layers: [], job: null, panes: [], beside: [], choosing: false, limits: {} };
const box = new BoxField();

// ---------------------------------------------------------------- requests and messages

const token = new URLSearchParams(window.location.hash.slice(1)).get("token");

async function request(path, options = {}) {
  const own = { "x-sfumato": state.tab || "new", ...(token && !state.tab ? { "x-sfumato-token": token } : {}) };
  const answer = await fetch(path, { ...options, headers: { ...own, ...options.headers } }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is it still running?");
  });
  if (answer.ok) return answer;
  let reason = `the server answered ${answer.status}`;
  try { reason = (await answer.json()).message || reason; } catch { /* not JSON */ }
  throw new Error(reason);
}

function showMessage(text) {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  $("message").textContent = sentence && !/[.?!)]$/.test(sentence) ? `${sentence}.` : sentence;
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

function setStatus(text) {
  $("status").textContent = text;
}

// ---------------------------------------------------------------- the picture

let choices = 0;

/** Show a picture at once, and ask the server what a network sees in it. */
const addPicture = withMessages(async (path, options, preview, name, model = state.model) => {
  const number = ++choices;
  const before = { chosen: $("upright").src, crop: $("crop").hidden, caption: $("about-crop").textContent };
  showChosen(preview, `${name}: the network looks at it …`);
  try {
    const answer = await (await request(forModel(path, model), { method: "POST", ...options })).json();
    const seen = await loadImage(answer.seen);
    if (number !== choices) return;
    stop();
    state.picture = { ...answer, seen, model };
    useModel(model);
    showChosen(answer.shown, "");
    showCrop(answer);
    $("question").hidden = false;
    box.start(answer.size);
    forgetMask();
    offerClasses(answer.top);
    offerDetails();
  } catch (error) {
    if (number === choices) { // what was chosen before is still the picture
      if (state.picture) {
        showChosen(before.chosen, before.caption);
        $("crop").hidden = before.crop;
        if (state.panes.length) showAnswers();
      } else hideChosen();
    }
    throw error;
  } finally {
    $("network").value = state.model; // the one that is asked, also where another one refused the picture
    if (preview.startsWith("blob:")) URL.revokeObjectURL(preview);
  }
});

const forModel = (path, model) => `${path}${path.includes("?") ? "&" : "?"}model=${model}`;

/** The chosen picture, or another one of the tab, as another network takes it. */
async function pictureFor(model, picture) {
  const answer = await (await request(forModel(`api/pictures?of=${picture.picture}`, model), { method: "POST" })).json();
  return { ...answer, seen: await loadImage(answer.seen), model };
}

/** Ask another network about the chosen picture from now on. */
function chooseNetwork() {
  const model = Number($("network").value);
  if (state.picture) addPicture(`api/pictures?of=${state.picture.picture}`, {}, $("upright").src, state.picture.file, model);
  else useModel(model);
}

/** Offer what goes with a network; what was set before stays as far as it goes with it too. */
function useModel(model) {
  if (model === state.model && state.methods.length) return;
  const before = { method: $("method").value, score: $("score").value, set: settings() };
  state.model = model;
  const { name, classes, methods, layers, scores } = state.models[model];
  Object.assign(state, { methods, layers, scores });
  $("model").textContent = classes ? `${name}, with its ${classes} classes,` : name;
  $("method").replaceChildren(...methods.map((entry) => element("option", { textContent: entry.title, value: entry.name })));
  $("score").replaceChildren(...scores.map((entry) => element("option", {
    textContent: entry.title, value: entry.name, disabled: Boolean(entry.reason), title: entry.reason,
  })));
  $("score").value = (scores.find((entry) => entry.name === before.score && !entry.reason) || scores.find((entry) => !entry.reason)).name;
  if (methods.some((entry) => entry.name === before.method)) $("method").value = before.method;
  state.other = null; // it was prepared for the other network
  Object.assign($("other-picture"), { hidden: true });
  $("to").value = "";
  $("to-help").textContent = "The picture that this one should be similar to.";
  const also = $("also").value;
  $("also").replaceChildren(element("option", { value: "", textContent: "(no other network)" }), ...state.models
    .map((entry, index) => element("option", { value: index, textContent: entry.name })).filter((_, index) => index !== model));
  $("also").value = [...$("also").options].some((option) => option.value === also) ? also : "";
  offerSettings();
  delete before.set.layer; // each network has its own layers
  for (const [setting, value] of Object.entries(before.set)) {
    const input = $(`setting-${setting}`);
    if (input) Object.assign(input, { value: Array.isArray(value) ? value.join(", ") : value }).dispatchEvent(new Event("input"));
  }
}

/** The request with a file. Throws if it is too large. */
function sent(file) {
  const { bytes } = state.limits;
  if (bytes && file.size > bytes) throw new Error(`the file is larger than ${Math.floor(bytes / 2 ** 20)} MB; make the picture smaller`);
  const name = encodeURIComponent(file.name.toWellFormed ? file.name.toWellFormed() : file.name);
  return { body: file, headers: { "x-file-name": name } };
}

const upload = withMessages((file) => addPicture("api/pictures", sent(file), URL.createObjectURL(file), file.name));

/** Send the picture that the first one is compared with. */
const uploadOther = withMessages(async (file) => {
  const answer = await (await request(forModel("api/pictures", state.model), { method: "POST", ...sent(file) })).json();
  state.other = answer;
  Object.assign($("other-picture"), { src: answer.shown, alt: `The picture to compare with: ${answer.file}`, hidden: false });
  $("to-help").textContent = `${answer.file}: the picture that this one should be similar to.`;
});

/** Send the picture that is white in the region. It takes the place of the box. */
const uploadMask = withMessages(async (file) => {
  state.mask = await (await request(forModel("api/pictures", state.model), { method: "POST", ...sent(file) })).json();
  box.set(null);
  $("mask-help").textContent = `${state.mask.file}: the region is where it is white. A box that you draw takes its place.`;
});

function forgetMask() {
  state.mask = null;
  $("mask").value = "";
  $("mask-help").textContent = "A picture of the same size that is white in the region.";
}

function showChosen(source, caption) {
  $("upright").src = source;
  $("upright").alt = "The chosen picture";
  $("about-crop").textContent = caption;
  $("crop").hidden = true;
  $("invitation").hidden = true;
  $("view").hidden = false;
  $("chosen").hidden = false;
  $("chosen").classList.remove("empty");
  $("chosen-name").textContent = "The picture";
  state.choosing = true;
  $("answers").hidden = !state.panes.length;
  state.panes.forEach((pane) => { pane.node.hidden = !state.beside.includes(pane); });
  arrange();
}

function hideChosen() {
  $("view").hidden = true;
  $("invitation").hidden = false;
  $("chosen").classList.add("empty");
  $("chosen-name").textContent = "What it needs to see";
}

/** Mark the part of the picture that is the network's input. */
function showCrop({ window: [left, top, right, bottom], file }) {
  const whole = Math.min(left, top) <= 0.002 && Math.max(right, bottom) >= 0.998;
  $("about-crop").textContent = whole ? `${file}: the network sees all of it.` : `${file}: the network sees what is inside the dashed line.`;
  const percent = (share) => `${100 * share}%`;
  Object.assign($("crop").style, { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) });
  $("crop").hidden = whole;
}

function offerClasses(top) {
  $("top").querySelectorAll("label").forEach((label) => label.remove());
  top.forEach((entry, index) => addClass(entry, index === 0));
  $("top").hidden = !top.length;
  const boxes = top.some((entry) => entry.box);
  $("top-name").textContent = boxes ? "What the network finds" : "What the network sees";
  $("top-help").textContent = boxes ? "The boxes that it is surest of. Choose the one to explain."
    : "Its most probable classes. Choose the one to explain.";
  offerAgainst();
}

function addClass(entry, checked) {
  const share = entry.share === undefined ? "" : `${(100 * entry.share).toFixed(1)} %`;
  const input = element("input", { type: "radio", name: "target", value: entry.index, checked });
  const label = element("label", {}, input, element("span", { textContent: entry.label }),
    element("span", { className: "share", textContent: share }));
  label.dataset.label = entry.label;
  const takeBox = () => { if (state.scores.some((score) => score.box === "possible" && !score.reason)) box.set(entry.box || null); };
  input.addEventListener("change", takeBox);
  $("top").append(label);
  if (checked) takeBox();
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
  $("none").textContent = "";
  if (!text) return closeMatches();
  const matches = await (await request(forModel(`api/classes?q=${encodeURIComponent(text)}`, state.model))).json();
  if (number !== searches) return undefined; // a later search has begun
  selected = -1;
  $("none").textContent = matches.length ? "" : `No class has “${text}” in its name.`;
  $("matches").replaceChildren(...matches.map((entry, index) => {
    const option = element("li", { id: `match-${index}`, textContent: entry.label, onmousedown: () => choose(entry) });
    option.role = "option";
    option.setAttribute("aria-selected", "false");
    option.entry = entry;
    return option;
  }));
  $("matches").hidden = !matches.length;
  if (matches.length) $("matches").scrollIntoView({ block: "nearest" });
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
  if (input) input.click();
  else { addClass(entry, true); offerAgainst(); }
  $("top").hidden = false;
  $("search").value = "";
  searches += 1;
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

const FIELDS = {
  steps: ["Steps", "More steps find better masks and take longer."],
  samples: ["Masks", "How many masks are tried. More give a clearer map and take longer."],
  areas: ["Areas", "Shares of the picture: 0.1 is 10 %. There is a mask for each. Press a mark to add it, and an area to take it away."],
  game: ["Game", "preserve: what suffices; delete: without what the answer is lost; dual: both at once."],
  layer: ["Layer", "Where in the network the method looks. Later layers have coarser maps."],
};
const CERTIFY = ["Does the set suffice, is all of it needed, is it the only one? Takes minutes without a GPU.",
  "Only for methods that find sets of places of the picture."];

const method = () => state.methods.find((entry) => entry.name === $("method").value);

function field(name, value) {
  if (name === "game") return element("select", {}, ...["preserve", "delete", "dual"].map((game) => element("option", { textContent: game, selected: game === value })));
  if (name === "layer" && state.layers.length) {
    const layers = state.layers.some((layer) => layer.name === value) ? state.layers : [...(value ? [{ name: value, text: value }] : []), ...state.layers];
    const options = layers.map((layer) => element("option", { value: layer.name, textContent: layer.text, selected: layer.name === value }));
    return element("select", {}, ...(value ? [] : [element("option", { value: "", textContent: "(the picture itself)", selected: true })]), ...options);
  }
  const isNumber = typeof value === "number";
  const input = element("input", { type: isNumber ? "number" : "text", value: Array.isArray(value) ? value.join(", ") : value });
  return isNumber ? Object.assign(input, { min: 1, step: 1 }) : input;
}

const SCORE_HELP = {
  "": "What is asked of the class, or of all classes together.",
  needed: "How strongly the network sees the class in a box that you draw, or where a mask is white.",
  possible: "How well the detector finds a box of the class. Without a box, the one that it is surest of.",
  picture: "How near the network's embeddings of two pictures are.",
};

const score = () => state.scores.find((entry) => entry.name === $("score").value);

/** Show what the question needs besides the class, and nothing that does not go with it. */
function offerDetails() {
  const { of_class: ofClass, against, box: needs, picture, mask } = score();
  $("top").disabled = $("search").disabled = !ofClass;
  $("other-class").hidden = !state.scores.some((entry) => entry.of_class && !entry.reason);
  $("rival").hidden = !against;
  $("other").hidden = !picture;
  box.enabled = Boolean(needs);
  $("masked").hidden = !mask;
  $("score-help").textContent = SCORE_HELP[needs || (picture ? "picture" : "")];
  $("certify").disabled = !(method().certifies && score().certifies);
  showStage();
}

function offerSettings() {
  $("settings").replaceChildren(...Object.entries(method().settings).map(([name, value]) => {
    const [title, help] = FIELDS[name] || [name, ""];
    const input = field(name, value);
    Object.assign(input, { name, id: `setting-${name}` });
    input.setAttribute("aria-describedby", `setting-${name}-help`);
    const shown = name === "areas" ? areasField(input, state.limits.areas) : input;
    return element("div", { className: "row" }, element("label", { htmlFor: input.id, textContent: title }), shown,
      element("p", { className: "help", id: `setting-${name}-help`, textContent: help }));
  }));
  $("more").hidden = !$("settings").children.length;
  $("method-help").textContent = method().help;
  $("smallest").disabled = !method().finds_smallest;
  $("certify-help").textContent = CERTIFY[method().certifies ? 0 : 1];
  offerDetails();
}

function settings() {
  const values = {};
  for (const input of $("settings").querySelectorAll("input[name], select[name]")) {
    if (input.name === "areas") values.areas = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    else if (input.type === "number") values[input.name] = Number(input.value);
    else if (input.value) values[input.name] = input.value;
  }
  return values;
}

const explain = withMessages(async (keep) => {
  const target = $("top").querySelector("input:checked");
  const against = score().against ? $("against").value : "";
  const question = {
    picture: state.picture.picture,
    target: score().of_class && target ? Number(target.value) : null,
    against: against === "" ? null : Number(against),
    score: $("score").value,
    box: score().box ? box.box : null,
    mask: score().mask && state.mask && !box.box ? state.mask.picture : null,
    to: score().picture && state.other ? state.other.picture : null,
    method: $("method").value,
    settings: settings(),
    certify: $("certify").checked && !$("certify").disabled,
    keep,
  };
  const also = $("also").value === "" ? null : Number($("also").value);
  // What the second network refuses to look at is refused before the first one searches.
  const second = also === null ? null : await secondQuestion(question, also);
  const named = () => describe(question, target);
  const first = await ask(question, named, state.picture);
  if (!first.done || !second) return;
  state.beside = [first];
  const other = await ask(second.question, named, second.picture);
  if (other.done) choosePair(other, true);
});

/** The class of another network that has the name of a class of the present one. */
async function classOf(model, index) {
  if (index === null) return null;
  const [found] = await (await request(forModel(`api/classes?like=${index}&of=${state.model}`, model))).json();
  return found.index;
}

/** The same question to another network: about its classes, its input for the picture, and at its own layers. */
async function secondQuestion(question, model) {
  const [target, against] = [await classOf(model, question.target), await classOf(model, question.against)];
  const picture = await pictureFor(model, state.picture);
  const other = question.to && await pictureFor(model, state.other);
  const mask = question.mask && await pictureFor(model, state.mask);
  const own = { ...question.settings };
  const { layers } = state.models[model];
  if (own.layer === method().settings.layer || !layers.some((layer) => layer.name === own.layer)) delete own.layer;
  return { picture, question: { ...question, target, against, picture: picture.picture, to: other && other.picture, mask: mask && mask.picture, settings: own } };
}

/** Ask a question, and return its answer when it has ended. `named` says the question in words once the server takes it. */
async function ask(question, named, picture) {
  const { job } = await (await request("api/jobs", { method: "POST", body: JSON.stringify(question) })).json();
  stop(); // only now, as a refused question changes nothing
  const pane = new Pane(named(), method().title, picture, job, question.box);
  await follow(job, pane);
  return pane;
}

/** The question in words, until the server says it. */
function describe(question, target) {
  const { title } = score();
  if (score().picture) return `similarity to ${state.other.file}`;
  if (!score().of_class || !target) return title;
  const name = target.closest("label").dataset.label.split(",")[0];
  if (question.against !== null) return `${name}, not ${$("against").selectedOptions[0].textContent.split(",")[0]}`;
  if (question.box) return `${name} in a box`;
  if (question.mask) return `${name} in ${state.mask.file}`;
  return score().against ? name : `${name}, ${title}`; // only the plain score can be set against another class
}

async function follow(job, pane) {
  const abort = new AbortController();
  state.job = { job, abort, pane };
  setBusy(true);
  setStatus("Starting …");
  showAnswers(pane);
  scrollToAnswer();
  try {
    const answer = await request(`api/jobs/${job}/events`, { signal: abort.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let incomplete = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (incomplete + value).split("\n");
      incomplete = lines.pop();
      for (const line of lines) if (line && !abort.signal.aborted) await handle(JSON.parse(line), pane);
    }
  } finally {
    if (state.job && state.job.job === job) {
      state.job = null;
      setBusy(false);
      if (!pane.done) { setStatus("Stopped."); remove(pane); }
    }
  }
}

/** Scroll to the answer where it is below the question, as on a phone, or above what is seen of the page. */
function scrollToAnswer() {
  if (!window.matchMedia(NARROW).matches && $("answers").getBoundingClientRect().top >= 0) return;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("answers").scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

async function handle(event, pane) {
  const bar = $("progress");
  if (event.type === "queued") setStatus(`Waiting for ${event.position} other ${event.position === 1 ? "job" : "jobs"} …`);
  if (event.type === "step") {
    if (event.claim) setStatus(`Testing claim ${event.index + 1} of ${event.steps} …`);
    else if (event.stage) setStatus(`${event.stage.charAt(0).toUpperCase()}${event.stage.slice(1)}: ${event.index} of ${event.steps}`);
    else setStatus(event.steps ? `Step ${event.index} of ${event.steps}` : "Starting …");
    bar.hidden = !event.steps;
    bar.value = event.steps ? event.index / event.steps : 0;
    if (event.masks) await pane.evolve(event);
  }
  if (event.type === "done") {
    bar.hidden = true;
    await pane.finish(event);
    setStatus("Done.");
    if (!window.matchMedia(NARROW).matches) scrollToAnswer(); // the answer has become longer than the window
    if (event.warning) showMessage(event.warning);
  }
  if (event.type === "failed" || event.type === "cancelled") {
    bar.hidden = true;
    setStatus(event.type === "failed" ? "" : "Stopped.");
    if (event.type === "failed") showMessage(event.message);
    remove(pane);
  }
}

function setBusy(busy) {
  $("stop").setAttribute("aria-disabled", String(!busy)); // not `disabled`, which would lose the focus
}

function stop() {
  if (!state.job) return;
  const { job, abort, pane } = state.job;
  state.job = null;
  request(`api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
  abort.abort();
  remove(pane);
  setBusy(false);
  $("progress").hidden = true;
  setStatus("Stopped.");
}

// ---------------------------------------------------------------- the answers

let made = 0;

/** An answer: a section of the report, with what can be downloaded. Until it is done, the masks of the search in the same panel. */
class Pane {
  constructor(label, methodTitle, picture, job, asked = null) {
    Object.assign(this, { job, picture, title: `${label} · ${methodTitle}`, done: false, number: ++made });
    this.node = $("pane").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.node.querySelector(name);
    const canvas = element("canvas", { width: picture.width, height: picture.height });
    canvas.setAttribute("role", "img");
    const panel = element("article", { className: "panel" }, element("h3", { textContent: methodTitle }),
      element("div", { className: "shown" }, canvas, element("output")));
    if (asked) panel.append(element("div", { className: "sources" }, maskOf(asked, picture)));
    panel.dataset.views = "overlay";
    panel.dataset.outlined = "";
    const image = element("img", { alt: "" });
    image.src = picture.seen.src;
    image.dataset.role = "picture";
    const section = element("section", { className: "query" }, element("h2", { textContent: label }),
      element("div", { className: "sources" }, image), element("div", { className: "panels" }, panel));
    if (picture.shape) section.dataset.shape = picture.shape;
    this.live(section, picture.seen);
    this.part(".file").textContent = state.models.length < 2 ? picture.file : `${picture.file} · ${seenBy(picture)}`;
    this.part(".keep").addEventListener("click", () => { setBeside(this, !state.beside.includes(this)); arrange(); });
    state.panes.push(this);
    $("panes").append(this.node);
  }

  /** Put a section into the page, and let the script of reports draw it. */
  live(section, picture) {
    this.part(".content").replaceChildren(section);
    this.shown = window.sfumato.start(section, picture);
  }

  async evolve(event) {
    const masks = await Promise.all(event.masks.map(loadImage));
    const index = Math.floor((masks.length - 1) / 2);
    this.shown.show(masks, index, `${(100 * event.areas[index]).toFixed(1)} % of the picture, score ${event.values[index].toFixed(2)} so far`);
  }

  async finish(event) {
    this.done = true;
    this.title = event.title;
    const parsed = new DOMParser().parseFromString(event.section, "text/html").body.firstElementChild;
    const section = document.importNode(parsed, true); // only in this document its images are loaded
    await Promise.all([...section.querySelectorAll("img")].map((image) => image.decode()));
    // Several answers may have the same question and method, and each part needs a name of its own.
    const name = `answer ${this.number}`;
    section.removeAttribute("aria-labelledby");
    section.setAttribute("aria-label", `${this.title}, ${name}`);
    for (const part of section.querySelectorAll("[role=region]")) part.setAttribute("aria-label", `${part.ariaLabel}, ${name}`);
    this.live(section);
    this.slides = event.masks && this.shown.slides;
    this.shown.moved = (area) => moveOthers(this, area);
    this.offerExports(event.masks);
    this.part(".keep").hidden = false;
    addToHistory(this);
  }

  offerExports(ofPlaces) {
    const exports = [["png", "PNG of this view"], ["html", "HTML report"], ["safetensors", "safetensors"]];
    if (ofPlaces) exports.push(["apng", "animated PNG"], ["gif", "GIF"]);
    this.part(".exports").replaceChildren(...exports.filter(([kind]) => kind !== "png" || this.shown.canvas).map(([kind, title]) => element("button", {
      textContent: title,
      onclick: withMessages(async () => { await (kind === "png" ? this.savePng() : download(this.job, kind)); }),
    })));
    this.part(".annotations").hidden = !ofPlaces;
    this.part(".download").addEventListener("click", withMessages(() => {
      const row = this.part(".which").value && `?row=${this.shown.row()}`;
      return download(this.job, this.part(".format").value + row);
    }));
  }

  savePng() {
    const stem = `${this.picture.file.replace(/\.[^.]*$/, "")}-${this.title.split(" · ")[0].replace(/,? /g, "-")}`;
    const { canvas, shape } = this.shown;
    inShape(canvas, shape).toBlob((blob) => save(blob, `${stem}.png`), "image/png");
  }
}

/** A canvas with the same content in the shape of the picture, as it is shown; enlarged, never made smaller. */
function inShape(canvas, shape) {
  const { width, height } = canvas;
  if (!shape || shape === width / height) return canvas;
  const wide = shape > width / height;
  const drawn = element("canvas", { width: wide ? Math.round(height * shape) : width, height: wide ? height : Math.round(width / shape) });
  drawn.getContext("2d").drawImage(canvas, 0, 0, drawn.width, drawn.height);
  return drawn;
}

async function download(job, kind) {
  const answer = await request(`api/jobs/${job}/export/${kind}`);
  const name = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get("content-disposition") || "")?.[1];
  save(await answer.blob(), name ? decodeURIComponent(name) : kind);
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** What a network sees in a picture, in a few words. */
function seenBy({ model, top: [likeliest] }) {
  const { name } = state.models[model];
  if (!likeliest || likeliest.share === undefined) return name;
  return `${name} sees ${likeliest.label.split(",")[0]} (${(100 * likeliest.share).toFixed(1)} %)`;
}

/** Show a pane, beside the one that is kept; by default the last one. */
function showAnswers(pane = state.panes.at(-1)) {
  state.choosing = false;
  if (state.beside.length > 1 && !state.beside.includes(pane)) setBeside(state.beside[0], false);
  state.panes.forEach((other) => { other.node.hidden = other !== pane && !state.beside.includes(other); });
  $("answers").hidden = !state.panes.length;
  arrange();
}

/** Keep a pane beside others, or not. At most two are kept: then the older one is let go. */
function setBeside(pane, kept) {
  state.beside = state.beside.filter((other) => other !== pane);
  if (kept) state.beside = [...state.beside, pane].slice(-2);
}

/** Show two answers side by side, once two are chosen. */
function choosePair(pane, kept) {
  setBeside(pane, kept);
  if (state.beside.length === 2) showAnswers(pane);
  else arrange();
}

const visible = () => state.panes.filter((pane) => !pane.node.hidden);

/** Bring the page in line with the panes that are seen. */
function arrange() {
  const seen = visible();
  const pair = seen.length === 2 && seen.every((pane) => pane.done && pane.slides);
  $("panes").classList.toggle("several", seen.length > 1);
  $("together").hidden = !pair;
  for (const pane of state.panes) pane.part(".keep").setAttribute("aria-pressed", String(state.beside.includes(pane)));
  showStage();
  markHistory();
  if (pair) moveOthers(seen[0], seen[0].shown.area());
}

/** Move the sliders of the other panes that are seen to the same area, if that is wanted. */
function moveOthers(pane, area) {
  if ($("together").hidden || !$("same-area").checked) return;
  for (const other of visible()) if (other !== pane) other.shown.moveTo(area);
}

/** Show the chosen picture where it is new or has no answer, and where a box can be drawn on it. */
function showStage() {
  $("chosen").hidden = visible().length > 0 && !box.enabled && !state.choosing;
}

function remove(pane) {
  if (pane.done || !state.panes.includes(pane)) return;
  pane.node.remove();
  setBeside(pane, false);
  state.panes = state.panes.filter((other) => other !== pane);
  showAnswers(); // the last answer is seen again
}

function addToHistory(pane) {
  const open = element("button", { textContent: pane.title, onclick: () => { state.beside = []; showAnswers(pane); scrollToAnswer(); } });
  const tick = element("input", { type: "checkbox", onchange: () => choosePair(pane, tick.checked) });
  tick.setAttribute("aria-label", `Side by side: ${pane.title}, ${pane.picture.file}`);
  pane.entry = element("li", {}, tick, open, element("span", { className: "small", textContent: pane.picture.file }));
  Object.assign(pane, { open, tick });
  $("history").querySelector("ol").append(pane.entry);
  const done = state.panes.filter((other) => other.done);
  for (const oldest of done.slice(0, Math.max(0, done.length - MOST_ANSWERS))) {
    oldest.entry.remove();
    oldest.node.remove();
    setBeside(oldest, false);
    state.panes = state.panes.filter((other) => other !== oldest);
  }
  arrange();
}

function markHistory() {
  const done = state.panes.filter((pane) => pane.entry);
  $("history").hidden = done.length < 2 && !done.some((pane) => pane.node.hidden);
  for (const pane of done) {
    pane.tick.checked = state.beside.includes(pane);
    if (pane.node.hidden) pane.open.removeAttribute("aria-current");
    else pane.open.setAttribute("aria-current", "true");
  }
}

// ---------------------------------------------------------------- the start and the end

const start = withMessages(async () => {
  const answer = await (await request("api/tabs", { method: "POST" })).json();
  const { tab, models, limits } = answer;
  Object.assign(state, { tab, models, limits });
  $("network").replaceChildren(...models.map(({ name }, index) => element("option", { value: index, textContent: name })));
  $("networks").hidden = $("second").hidden = models.length < 2;
  $("samples").replaceChildren(...answer.samples.map((name) => element("button", {
    onclick: () => addPicture(`api/pictures?sample=${name}`, {}, `samples/${name}`, name),
  }, element("img", { src: `samples/${name}`, alt: `Sample: ${name}` }))));
  useModel(0);
  document.body.dataset.ready = "yes";
});

$("chosen").classList.add("empty");
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
$("network").addEventListener("change", chooseNetwork);
$("method").addEventListener("change", offerSettings);
$("score").addEventListener("change", offerDetails);
$("to").addEventListener("change", (event) => { if (event.target.files[0]) uploadOther(event.target.files[0]); });
$("mask").addEventListener("change", (event) => { if (event.target.files[0]) uploadMask(event.target.files[0]); });
$("explain").addEventListener("click", () => explain(null));
$("smallest").addEventListener("click", () => explain(0.9));
$("stop").addEventListener("click", stop);
$("same-area").addEventListener("change", arrange);
// The server forgets the tab at once. A page that comes back from the browser's memory begins anew.
window.addEventListener("pagehide", () => {
  if (state.tab) fetch("api/tab", { method: "DELETE", keepalive: true, headers: { "x-sfumato": state.tab } }).catch(() => {});
});
window.addEventListener("pageshow", (event) => { if (event.persisted) window.location.reload(); });
start();

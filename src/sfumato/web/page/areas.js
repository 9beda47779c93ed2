// The areas of the masks: a slider with marks that adds them, a list that takes them away, and the same as text.

import { element } from "./dom.js";

const MARKS = [1, 2, 5, 10, 20, 50]; // percent
const [LEAST, MOST, STEPS] = [0.5, 80, 1000];
const NEAR = 12; // steps from a mark within which the slider is at it

const stepOf = (area) => (STEPS * Math.log(area / LEAST)) / Math.log(MOST / LEAST);

/** The area at a step of the slider, in percent, with two digits. */
function areaAt(step) {
  const mark = MARKS.find((area) => Math.abs(stepOf(area) - step) < NEAR);
  return mark || Number((LEAST * (MOST / LEAST) ** (step / STEPS)).toPrecision(2));
}

const words = (area) => `${Number((100 * area).toPrecision(3))} %`;
const parsed = (text) => text.split(/[\s,;]+/).filter(Boolean).map(Number);

/** A field with these areas, as shares of the picture; its text input is given, and at most so many can be added. */
export function areasField(text, most) {
  const chosen = element("ul", { className: "chosen" });
  chosen.setAttribute("aria-label", "Areas that are chosen");
  const slider = element("input", { type: "range", min: 0, max: STEPS, step: 10, value: stepOf(10), id: `${text.id}-slider` });
  slider.setAttribute("aria-describedby", text.getAttribute("aria-describedby"));
  const add = element("button", { type: "button" });
  const marks = element("div", { className: "marks" }, ...MARKS.map((area) => {
    const button = element("button", { type: "button", textContent: area === 50 ? "50 %" : area, onclick: () => addArea(area) });
    button.setAttribute("aria-label", `Add ${area} %`);
    button.style.left = `${(100 * stepOf(area)) / STEPS}%`;
    return button;
  }));

  function write(areas) {
    text.value = [...areas].sort((one, other) => one - other).join(", ");
    show();
  }

  function addArea(percent) {
    slider.value = stepOf(percent);
    const area = Number((percent / 100).toPrecision(6));
    const areas = parsed(text.value);
    if (areas.length < most && !areas.includes(area)) write([...areas, area]);
    else show();
  }

  function remove(area) {
    const areas = parsed(text.value);
    const index = areas.indexOf(area);
    write(areas.filter((other) => other !== area));
    (chosen.children[Math.min(index, chosen.children.length - 1)]?.firstElementChild || slider).focus();
  }

  function show() {
    const areas = parsed(text.value);
    const valid = areas.filter((area) => area > 0 && area < 1);
    chosen.replaceChildren(...valid.map((area) => {
      const button = element("button", { type: "button", textContent: `${words(area)} ×`, onclick: () => remove(area) });
      button.setAttribute("aria-label", `Take ${words(area)} away`);
      return element("li", {}, button);
    }));
    const area = areaAt(Number(slider.value));
    slider.setAttribute("aria-valuetext", `${area} %`);
    add.textContent = `Add ${area} %`;
    add.disabled = areas.length >= most;
  }

  add.addEventListener("click", () => addArea(areaAt(Number(slider.value))));
  slider.addEventListener("input", show);
  text.addEventListener("input", show);
  show();
  const label = element("label", { htmlFor: slider.id, textContent: "Add an area", className: "quiet" });
  return element("div", { className: "areas" }, text, chosen, label, element("div", { className: "scale" }, slider, marks), add);
}

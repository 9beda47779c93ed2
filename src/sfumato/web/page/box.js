// A box on the picture: drawn with a mouse or a finger, or written as four numbers. Its unit is a pixel of the upload.

import { $ } from "./dom.js";

const SIDES = ["left", "top", "right", "bottom"];
const round = (value) => Math.round(10 * value) / 10;

export class BoxField {
  constructor() {
    Object.assign(this, { size: [1, 1], box: null, drawing: null });
    this.inputs = SIDES.map((side) => $(`box-${side}`));
    this.frame = $("frame");
    for (const input of this.inputs) input.addEventListener("input", () => this.read());
    $("box-clear").addEventListener("click", () => { this.set(null); this.inputs[0].focus(); });
    this.frame.addEventListener("pointerdown", (event) => this.begin(event));
    this.frame.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) this.frame.addEventListener(kind, () => { this.drawing = null; });
  }

  /** For a picture of this width and height. */
  start(size) {
    this.size = size;
    $("box-size").textContent = `${size[0]} × ${size[1]}`;
    this.inputs.forEach((input, index) => { input.max = size[index % 2]; });
    this.set(null);
  }

  /** Whether a box can be given. */
  set enabled(enabled) {
    $("box").hidden = !enabled;
    this.frame.classList.toggle("drawing", enabled);
    this.show();
  }

  get enabled() { return !$("box").hidden; }

  /** Set the box: left, top, right and bottom, or null. */
  set(box) {
    this.box = box;
    this.inputs.forEach((input, index) => { input.value = box ? round(box[index]) : ""; });
    this.show();
  }

  /** Take the box from the four numbers. */
  read() {
    const values = this.inputs.map((input) => input.value);
    this.box = values.every((value) => value === "") ? null : values.map(Number);
    this.show();
  }

  show() {
    const drawn = this.enabled && this.box && this.box[0] < this.box[2] && this.box[1] < this.box[3];
    $("drawn").hidden = !drawn;
    $("box-clear").disabled = !this.box;
    $("about-box").textContent = "";
    if (!drawn) return;
    const [left, top, right, bottom] = this.box.map((value, index) => (100 * value) / this.size[index % 2]);
    Object.assign($("drawn").style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    const [width, height] = [0, 1].map((axis) => round(this.box[axis + 2] - this.box[axis]));
    $("about-box").textContent = `Box: ${width} × ${height} pixels, from ${round(this.box[0])}, ${round(this.box[1])}`;
  }

  /** The place of a pointer, in pixels of the upload. */
  place(event) {
    const { left, top, width, height } = $("upright").getBoundingClientRect();
    const shares = [(event.clientX - left) / width, (event.clientY - top) / height];
    return shares.map((share, axis) => Math.round(Math.min(1, Math.max(0, share)) * this.size[axis]));
  }

  begin(event) {
    if (!this.enabled || event.button) return;
    event.preventDefault(); // or the browser drags the image
    this.frame.setPointerCapture(event.pointerId);
    this.drawing = this.place(event);
  }

  move(event) {
    if (!this.drawing) return;
    const [here, start] = [this.place(event), this.drawing];
    const low = here.map((value, axis) => Math.min(value, start[axis]));
    const high = here.map((value, axis) => Math.max(value, start[axis]));
    if (low[0] < high[0] && low[1] < high[1]) this.set([...low, ...high]);
  }
}

/** A canvas of the network's input that is white in the box, for a panel that draws the line around it. */
export function maskOf(box, { size, window: [left, top, right, bottom], width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#fff";
  const x = (value) => ((value / size[0] - left) / (right - left)) * width;
  const y = (value) => ((value / size[1] - top) / (bottom - top)) * height;
  context.fillRect(x(box[0]), y(box[1]), x(box[2]) - x(box[0]), y(box[3]) - y(box[1]));
  canvas.dataset.role = "asked";
  return canvas;
}

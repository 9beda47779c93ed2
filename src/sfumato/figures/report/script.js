"use strict";
/* Draws each panel's canvas from the pictures that lie beside it, for the mask that its slider is at. */
(() => {
  const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];
  const COLOURS = Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) * (INFERNO.length - 1);
    const low = Math.min(Math.floor(at), INFERNO.length - 2);
    return INFERNO[low].map((colour, channel) => colour + (at - low) * (INFERNO[low + 1][channel] - colour));
  });

  function pixels(image, width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  const VIEWS = {
    overlay(out, at, m, panel) {
      const share = m / 255;
      const picture = panel.picture;
      const grey = (picture[at] + picture[at + 1] + picture[at + 2]) / 3;
      const colour = COLOURS[Math.round(m / 1.2)];
      const cover = 0.45 * share;
      for (let c = 0; c < 3; c++) {
        const pale = 89 + 0.65 * (0.7 * grey + 0.3 * picture[at + c]);
        const base = pale + share * (picture[at + c] - pale);
        out[at + c] = base + cover * (colour[c] - base);
      }
    },
    black(out, at, m, panel) {
      for (let c = 0; c < 3; c++) out[at + c] = (panel.picture[at + c] * m) / 255;
    },
    seen(out, at, m, panel) {
      const height = (m / 255) * panel.levels.length;
      const low = Math.min(Math.floor(height), panel.levels.length - 1);
      const below = panel.levels[low];
      const above = panel.levels[low + 1] || panel.picture;
      for (let c = 0; c < 3; c++) out[at + c] = below[at + c] + (height - low) * (above[at + c] - below[at + c]);
    },
    heat(out, at, m) {
      const colour = COLOURS[m];
      for (let c = 0; c < 3; c++) out[at + c] = colour[c];
    },
  };

  /* A line around the places where the mask is more than half. */
  function outline(out, mask, width, height) {
    const inside = (x, y) => mask[4 * (y * width + x)] > 127;
    for (let y = 0; y < height - 1; y++) {
      for (let x = 0; x < width - 1; x++) {
        const here = inside(x, y);
        if (here !== inside(x + 1, y) || here !== inside(x, y + 1)) out.set([181, 64, 42, 255], 4 * (y * width + x));
      }
    }
  }

  function draw(panel, chosen, rest) {
    const { canvas, masks } = panel;
    const offered = panel.element.dataset.views.split(" ");
    const view = offered.includes(chosen) ? chosen : offered[0];
    const mask = masks[Math.min(panel.row, masks.length - 1)];
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const swapped = rest && (view === "black" || view === "seen");
    const paint = VIEWS[view];
    for (let at = 0; at < mask.length; at += 4) {
      paint(image.data, at, swapped ? 255 - mask[at] : mask[at], panel);
      image.data[at + 3] = 255;
    }
    if (view === "overlay" && "outlined" in panel.element.dataset) outline(image.data, mask, canvas.width, canvas.height);
    context.putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `${panel.name}, ${view}: ${panel.output.textContent}`);
  }

  /* Says and marks which mask is shown. */
  function point(panel) {
    for (const row of panel.rows) {
      const here = Number(row.dataset.row) === panel.row;
      if (here) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
      if (here) {
        panel.output.textContent = row.dataset.said;
        if (panel.slider) panel.slider.setAttribute("aria-valuetext", row.dataset.said);
      }
    }
    const guide = panel.element.querySelector(".guide");
    for (const circle of panel.element.querySelectorAll("circle.point")) {
      const here = Number(circle.dataset.row) === panel.row;
      circle.classList.toggle("now", here);
      if (here && guide) for (const end of ["x1", "x2"]) guide.setAttribute(end, circle.getAttribute("cx"));
    }
  }

  const area = (panel, row) => Number(panel.rows[row].dataset.area);

  function nearest(panel, wanted) {
    let best = 0;
    panel.rows.forEach((_, row) => {
      if (Math.abs(area(panel, row) - wanted) < Math.abs(area(panel, best) - wanted)) best = row;
    });
    return best;
  }

  function prepared(element, picture) {
    const canvas = element.querySelector("canvas");
    if (!canvas) return null;
    const slider = element.querySelector("input[type=range]");
    const panel = {
      element,
      canvas,
      slider,
      name: element.querySelector("h3").textContent,
      output: element.querySelector("output"),
      rows: [...element.querySelectorAll("tr[data-row]")],
      row: slider ? Number(slider.value) : 0,
    };
    const read = (role) => [...element.querySelectorAll(`img[data-role=${role}]`)].map((each) => pixels(each, canvas.width, canvas.height));
    panel.masks = read("mask");
    panel.levels = read("level");
    panel.picture = picture && pixels(picture, canvas.width, canvas.height);
    return panel;
  }

  function start(section) {
    const picture = section.querySelector("img[data-role=picture]");
    const elements = [...section.querySelectorAll("article.panel")];
    const panels = elements.map((each) => prepared(each, picture)).filter(Boolean);
    const together = section.querySelector("input[data-role=together]");
    const rest = section.querySelector("input[data-role=rest]");
    const view = () => (section.querySelector("input[type=radio]:checked") || { value: "heat" }).value;
    const redraw = (panel) => {
      point(panel);
      draw(panel, view(), rest !== null && rest.checked);
    };
    const move = (panel, row) => {
      panel.row = row;
      if (panel.slider) panel.slider.value = row;
      redraw(panel);
    };
    const moved = (panel, row) => {
      move(panel, row);
      if (!together || !together.checked) return;
      for (const other of panels) if (other !== panel && other.slider) move(other, nearest(other, area(panel, row)));
    };
    for (const panel of panels) {
      if (panel.slider) {
        panel.slider.addEventListener("input", () => moved(panel, Number(panel.slider.value)));
        for (const mark of panel.element.querySelectorAll("tr[data-row], circle.point")) {
          mark.addEventListener("click", () => moved(panel, Number(mark.dataset.row)));
        }
      }
    }
    const all = () => panels.forEach(redraw);
    for (const control of section.querySelectorAll(".controls input")) control.addEventListener("change", all);
    all();
    section.classList.add("live");
  }

  /* All pictures are there by then, as they are in the page. */
  window.addEventListener("load", () => document.querySelectorAll("section.query").forEach(start));
})();

"use strict";
/* Draws the canvas of each panel: the mask that the slider is at, from the pictures in the panel. */
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

  const KEPT = [181, 64, 42, 255];
  const ASKED = [31, 195, 232, 255];

  /* A line around the places where the mask is more than half. */
  function outline(out, mask, width, height, colour) {
    const inside = (x, y) => mask[4 * (y * width + x)] > 127;
    for (let y = 0; y < height - 1; y++) {
      for (let x = 0; x < width - 1; x++) {
        const here = inside(x, y);
        if (here !== inside(x + 1, y) || here !== inside(x, y + 1)) out.set(colour, 4 * (y * width + x));
      }
    }
  }

  function draw(panel, choice, invert) {
    const { canvas } = panel;
    const masks = panel.sets[panel.set];
    const views = panel.element.dataset.views.split(" ");
    const view = views.includes(choice) ? choice : views[0];
    const mask = masks[Math.min(panel.row, masks.length - 1)];
    const context = canvas.getContext("2d");
    if (!mask) { // a search that has just begun
      if (!panel.picture) return;
      const shown = new ImageData(new Uint8ClampedArray(panel.picture), canvas.width, canvas.height);
      if (panel.asked) outline(shown.data, panel.asked, canvas.width, canvas.height, ASKED);
      context.putImageData(shown, 0, 0);
      return;
    }
    const image = context.createImageData(canvas.width, canvas.height);
    const inverted = invert && (view === "black" || view === "seen");
    const paint = VIEWS[view];
    for (let at = 0; at < mask.length; at += 4) {
      paint(image.data, at, inverted ? 255 - mask[at] : mask[at], panel);
      image.data[at + 3] = 255;
    }
    if (view === "overlay" && "outlined" in panel.element.dataset) outline(image.data, mask, canvas.width, canvas.height, KEPT);
    if (panel.asked) outline(image.data, panel.asked, canvas.width, canvas.height, ASKED);
    context.putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `${panel.name}, ${view}: ${panel.output.textContent}`);
  }

  /* Each channel of a layer as heat over the pale picture. */
  function drawChannels(panel) {
    for (const image of panel.element.querySelectorAll("img[data-role=channel]")) {
      const canvas = document.createElement("canvas");
      canvas.width = panel.canvas.width;
      canvas.height = panel.canvas.height;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", image.alt);
      const context = canvas.getContext("2d");
      const out = context.createImageData(canvas.width, canvas.height);
      const map = pixels(image, canvas.width, canvas.height);
      const { picture } = panel;
      for (let at = 0; at < map.length; at += 4) {
        const pale = 0.45 * 255 + 0.55 * ((picture[at] + picture[at + 1] + picture[at + 2]) / 3);
        const cover = 0.85 * Math.sqrt(map[at] / 255);
        const colour = COLOURS[map[at]];
        for (let c = 0; c < 3; c++) out.data[at + c] = pale + cover * (colour[c] - pale);
        out.data[at + 3] = 255;
      }
      context.putImageData(out, 0, 0);
      image.replaceWith(canvas);
    }
  }

  /* Marks the mask that is shown, in the table, in the curve and in the text. */
  function mark(panel) {
    for (const row of panel.rows) {
      const here = Number(row.dataset.row) === panel.row;
      if (here) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
      if (here) {
        const set = panel.set ? panel.sentences[panel.set][panel.row] : row.dataset;
        panel.output.textContent = set.sentence;
        if (panel.slider) panel.slider.setAttribute("aria-valuetext", set.sentence);
        panel.scores.forEach((score, index) => {
          score.textContent = index ? panel.sentences[index][panel.row].score : row.dataset.score;
        });
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

  function readPanel(element, picture) {
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
    const images = (role) => [...element.querySelectorAll(`[data-role=${role}]`)];
    const read = (some) => some.map((image) => pixels(image, canvas.width, canvas.height));
    panel.set = 0;
    panel.sets = [read(images("mask"))];
    panel.sentences = [[]];
    panel.scores = [...element.querySelectorAll(".sets span[data-role=score]")];
    for (let restart = 1; restart < panel.scores.length; restart++) {
      const own = images("restart").filter((image) => Number(image.dataset.restart) === restart);
      panel.sets.push(read(own));
      panel.sentences.push(own.map((image) => image.dataset));
    }
    panel.levels = read(images("level"));
    [panel.asked] = read(images("asked"));
    panel.picture = picture && pixels(picture, canvas.width, canvas.height);
    if (panel.picture) drawChannels(panel);
    return panel;
  }

  /* Makes a section live. Its picture is in it, or is given as an image that is loaded. */
  function start(section, image) {
    const picture = image || section.querySelector("img[data-role=picture]");
    const elements = [...section.querySelectorAll("article.panel")];
    const panels = elements.map((element) => readPanel(element, picture)).filter(Boolean);
    const together = section.querySelector("input[data-role=together]");
    const inversion = section.querySelector("input[data-role=rest]");
    const view = () => (section.querySelector(".controls input[type=radio]:checked") || { value: "heat" }).value;
    const shape = Number(section.dataset.shape) || 0;
    if (shape) for (const { canvas } of panels) canvas.style.aspectRatio = String(shape);
    const shown = {
      /* The width of what the network sees of the picture, by its height; 0 for that of its input. */
      shape,
      /* Shows other masks in the first panel, as images of any size, with a sentence: those of a search that is under way. */
      show(images, row, sentence) {
        const [panel] = panels;
        panel.sets = [images.map((image) => pixels(image, panel.canvas.width, panel.canvas.height))];
        panel.row = row;
        panel.output.textContent = sentence;
        redraw(panel);
      },
      /* The number of the mask that is shown. */
      row: () => panels[0].row,
      canvas: panels.length ? panels[0].canvas : null,
      /* Whether there is a slider. */
      slides: Boolean(panels.length && panels[0].slider),
      /* The area of the mask that is shown. */
      area: () => area(panels[0], panels[0].row),
      /* Shows the mask of the nearest area. */
      moveTo(wanted) { move(panels[0], nearest(panels[0], wanted)); },
      /* Is called with the area when somebody moves the slider. */
      moved: null,
    };
    const redraw = (panel) => {
      mark(panel);
      draw(panel, view(), inversion !== null && inversion.checked);
    };
    const move = (panel, row) => {
      panel.row = row;
      if (panel.slider) panel.slider.value = row;
      redraw(panel);
    };
    const select = (panel, row) => {
      move(panel, row);
      if (panel === panels[0] && shown.moved) shown.moved(area(panel, row));
      if (!together || !together.checked) return;
      for (const other of panels) if (other !== panel && other.slider) move(other, nearest(other, area(panel, row)));
    };
    for (const panel of panels) {
      for (const input of panel.element.querySelectorAll(".sets input")) {
        input.addEventListener("change", () => {
          panel.set = Number(input.value);
          redraw(panel);
        });
      }
      if (panel.slider) {
        panel.slider.addEventListener("input", () => select(panel, Number(panel.slider.value)));
        for (const element of panel.element.querySelectorAll("tr[data-row], circle.point")) {
          element.addEventListener("click", () => select(panel, Number(element.dataset.row)));
        }
      }
    }
    const redrawAll = () => panels.forEach(redraw);
    for (const control of section.querySelectorAll(".controls input")) control.addEventListener("change", redrawAll);
    redrawAll();
    section.classList.add("live");
    return shown;
  }

  /* The pictures are in the page, so all are loaded by then. The explorer adds sections later. */
  window.addEventListener("load", () => document.querySelectorAll("section.query").forEach(start));
  window.sfumato = { start };
})();

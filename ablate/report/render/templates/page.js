// Makes plots interactive and shows samples side by side. Without it the page shows the same content.
(() => {
  "use strict";

  const drawn = new WeakMap();

  // Draw a plot as wide as its place. If that fails, the SVG stays.
  async function draw(figure) {
    const place = figure.querySelector(".drawing");
    const width = place.parentElement.clientWidth;
    if (!window.vegaEmbed || Math.abs((drawn.get(figure)?.width ?? -99) - width) < 20) return;
    const spec = JSON.parse(figure.querySelector(".spec").textContent);
    if (width < 480) spec.config.legend.columns = 2; // a row of entries would be cut off
    const panel = Number(figure.dataset.panel || 0);
    if (panel) {
      // At least two panels per row if they may be narrower.
      const stretches = "stretches" in figure.dataset;
      const fitting = Math.floor((width - 80) / panel);
      spec.columns = Math.max(stretches && width > 250 ? 2 : 1, fitting);
      if (stretches) spec.spec.width = Math.min(280, Math.floor((width - 80) / spec.columns) - 20);
      if (spec.facet?.header) spec.facet.header.labelLimit = spec.spec.width;
    } else {
      // Plots one below the other cannot be fitted to the width: leave room for their axes.
      for (const part of spec.vconcat ?? [spec]) part.width = Math.max(280, spec.vconcat ? width - 100 : width);
      if (!spec.vconcat) spec.autosize = { type: "fit-x", contains: "padding" };
    }
    const before = drawn.get(figure);
    drawn.set(figure, { width });
    const target = document.createElement("div");
    place.parentElement.append(target);
    try {
      const embedded = await window.vegaEmbed(target, spec, { renderer: "svg", actions: false, ast: true });
      before?.view?.finalize();
      target.className = place.className;
      place.remove();
      figure.dataset.drawn = "yes";
      drawn.set(figure, { width, view: embedded.view });
    } catch (error) {
      target.remove();
      console.error(figure.id, error);
    }
  }

  const figures = [...document.querySelectorAll("figure.plot")];
  const near = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
    { rootMargin: "400px" },
  );
  figures.forEach((figure) => near.observe(figure));
  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => figures.filter((figure) => figure.dataset.drawn).forEach(draw), 200);
  });

  // Samples of two variants side by side: a slider over variants, and one over training steps.
  const explorer = document.querySelector(".explorer");
  const images = [...document.querySelectorAll("#samples img[data-label]")];
  const labels = [...new Set(images.map((image) => image.dataset.label))];
  if (!explorer || labels.length < 1) return;
  const steps = [...new Set(images.map((image) => image.dataset.step).filter(Boolean))].map(Number).sort((a, b) => a - b);
  steps.push("");
  const by = (id) => document.getElementById(id);
  const [left, right, step] = ["left", "right", "step"].map(by);
  labels.forEach((label) => left.append(new Option(label, label)));
  right.max = labels.length - 1;
  right.value = Math.min(1, labels.length - 1);
  step.max = steps.length - 1;
  step.value = step.max;
  by("step-label").hidden = steps.length < 2;

  function show(image, caption, label) {
    const wanted = String(steps[step.value]);
    const match = images.find((one) => one.dataset.label === label && one.dataset.step === wanted);
    by(caption).textContent = match ? label : `${label}: no images of this step`;
    by(image).hidden = !match;
    if (match) [by(image).src, by(image).alt] = [match.src, match.alt];
  }

  function update() {
    const label = labels[right.value];
    const when = steps[step.value] === "" ? "finished" : `step ${steps[step.value]}`;
    by("right-name").textContent = label;
    by("step-name").textContent = when;
    right.setAttribute("aria-valuetext", label);
    step.setAttribute("aria-valuetext", when);
    show("left-img", "left-name", left.value);
    show("right-img", "right-caption", label);
  }

  [left, right, step].forEach((control) => control.addEventListener("input", update));
  explorer.hidden = false;
  update();
})();

// The page: controls, canvases, and the times that the worker reports.
import { evaluations } from "./sampler.js";

const element = (id) => document.getElementById(id);
const run = await (await fetch("run.json")).json();
const worker = new Worker("worker.js", { type: "module" });
const formats = Object.keys(run.files);
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
let request = 0;
let firstSeed = 0;
let times = []; // milliseconds of the images of this request

const [, height, width] = run.shape;
const canvases = Array.from(element("cats").children, (canvas) => Object.assign(canvas, { width, height }));
// The images are computed on the CPU, so the canvases stay there.
const contexts = canvases.map((canvas) => canvas.getContext("2d", { willReadFrequently: true }));

element("steps").max = Math.max(32, run.num_steps);
element("steps").value = run.num_steps;
element("run").textContent = run.run_id;
element("credit").textContent = run.credit;
for (const format of formats) element(`${format}-bytes`).textContent = `${(run.files[format].bytes / 1e6).toFixed(1)} MB`;

function draw() {
  const steps = Number(element("steps").value);
  const format = document.querySelector("input[name=format]:checked").value;
  element("steps-value").textContent = steps;
  const calls = evaluations(run.solver, steps);
  element("status").textContent = `${calls} network evaluation${calls === 1 ? "" : "s"} per image (${run.solver})`;
  for (const name of formats) {
    const row = element(`${name}-ms`);
    row.parentElement.classList.toggle("now", name === format);
    if (row.dataset.steps !== String(steps)) row.textContent = "–"; // a time of other steps
  }
  element(`${format}-ms`).textContent = "…";
  element(`${format}-ms`).dataset.steps = "";
  times = [];
  request += 1;
  document.body.dataset.done = "";
  const seeds = canvases.map((_, image) => firstSeed + image);
  worker.postMessage({ request, file: run.files[format].name, seeds, shape: run.shape, solver: run.solver, steps });
}

worker.onmessage = ({ data }) => {
  if (data.request !== request) return;
  if (data.error) {
    element("status").textContent = `This browser cannot run the model: ${data.error}`;
    document.body.dataset.done = "error";
    return;
  }
  contexts[data.image].putImageData(new ImageData(data.pixels, width, height), 0, 0);
  if (data.ms === undefined) return;
  times.push(data.ms);
  const format = document.querySelector("input[name=format]:checked").value;
  element(`${format}-ms`).textContent = `${median(times).toFixed(0)} ms`;
  element(`${format}-ms`).dataset.steps = element("steps").value;
  if (times.length === canvases.length) document.body.dataset.done = format;
};

element("steps").addEventListener("input", draw);
element("formats").addEventListener("change", draw);
element("again").addEventListener("click", () => {
  firstSeed += canvases.length;
  draw();
});
draw();

// Draws the images of the newest request, one after another, so that the page stays responsive.
import { load, noise, sample } from "./sampler.js";

const sessions = {}; // file -> promise of its session
let newest = 0;
const turn = new MessageChannel(); // a turn of the event loop, in which a newer request may arrive
const otherMessages = () => new Promise((resolve) => {
  turn.port1.onmessage = resolve;
  turn.port2.postMessage(null);
});

/** (C, S, S) in [-1, 1] -> S * S RGBA bytes; a Uint8ClampedArray rounds and clips. */
function toPixels(x, [channels, height, width]) {
  const pixels = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let k = 0; k < height * width; k++) {
    for (let c = 0; c < 3; c++) pixels[4 * k + c] = (x[(c % channels) * height * width + k] + 1) * 127.5;
  }
  return pixels;
}

self.onmessage = async ({ data: { request, file, seeds, shape, solver, steps } }) => {
  newest = request;
  try {
    const session = await (sessions[file] ??= load(file));
    for (const [image, seed] of seeds.entries()) {
      const show = async (x, step) => {
        postMessage({ request, image, step, pixels: toPixels(x, shape) });
        await otherMessages();
        return newest === request;
      };
      const drawn = await sample(session, noise(seed, shape.reduce((a, b) => a * b)), shape, solver, steps, show);
      if (drawn === null) return;
      postMessage({ request, image, step: steps, pixels: toPixels(drawn.z, shape), ms: drawn.ms });
    }
  } catch (error) {
    delete sessions[file];
    postMessage({ request, error: String(error.message ?? error) });
  }
};

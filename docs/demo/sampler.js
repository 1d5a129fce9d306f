// Sampling as ablate/diffusion/solvers.py does it: dz/dt = (x_hat - z) / (1 - t), from noise at t = 0.
import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };

/** Load an ONNX file: z (B, C, S, S), t (B,) -> x_hat (B, C, S, S), all float32. */
export const load = (url) => ort.InferenceSession.create(url);

/** Return standard normal noise, a Float32Array that a seed determines. */
export function noise(seed, length) {
  let state = seed >>> 0;
  const uniform = () => { // mulberry32, in (0, 1]
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (((x ^ (x >>> 14)) >>> 0) + 1) / 2 ** 32;
  };
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Return the number of network evaluations of one image. */
export const evaluations = (solver, steps) => (solver === "heun" ? 2 * steps - 1 : steps);

/**
 * Sample one image.
 *
 * `z` (C * S * S values) is the noise, `shape` is [C, S, S], `solver` is "euler" or "heun".
 * `onStep(x_hat, step)` is awaited after each step; if it returns false, the sampling ends.
 * Returns the sample z at t = 1 and the milliseconds of the computation without onStep;
 * null if it was ended.
 */
export async function sample(session, z, shape, solver, steps, onStep = () => true) {
  const denoise = async (z, t) => {
    const inputs = { z: new ort.Tensor("float32", z, [1, ...shape]), t: new ort.Tensor("float32", [t], [1]) };
    return (await session.run(inputs)).x_hat.data;
  };
  const h = 1 / steps;
  let ms = 0;
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    const t = i * h;
    const xHat = await denoise(z, t);
    const slope = xHat.map((x, k) => (x - z[k]) / (1 - t));
    let next = z.map((value, k) => value + h * slope[k]);
    if (solver === "heun" && i + 1 < steps) {
      const xNext = await denoise(next, t + h);
      next = z.map((value, k) => value + (h * (slope[k] + (xNext[k] - next[k]) / (1 - t - h))) / 2);
    }
    z = next;
    ms += performance.now() - start;
    if ((await onStep(xHat, i + 1)) === false) return null;
  }
  return { z, ms };
}

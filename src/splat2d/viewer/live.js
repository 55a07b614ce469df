// A running fit: its states as they come, and the PSNR over its steps.

import { $, numbers, request } from "./page.js";
import { ViewerError } from "./renderer.js";

/** Shows the states of a fit as they come, and the PSNR over its steps. */
export async function follow(app) {
  const history = [];
  const { loading } = app;
  app.file.name = app.source.name;
  $("fit-progress").hidden = false;
  $("fit-state").textContent = "starting";
  for (let state = { number: 0, done: false }; !state.done;) {
    let next;
    try {
      next = await readState(await request(`${app.source.live}?after=${state.number}`, "the fit"));
    } catch (error) {
      if (!app.renderer.splats) return app.fail(error);
      $("fit-state").textContent = "stopped: the terminal no longer answers";
      return;
    }
    if (app.loading !== loading) return; // another file has been opened
    if (next.error) return app.fail(new ViewerError(`The fit failed: ${next.error}.`));
    state = next;
    if (!state.rows) continue;
    history.push([state.step, state.psnr]);
    app.show(state, !app.renderer.splats, state.done);
    const done = state.done
      ? `${state.seconds.toFixed(1)} s`
      : `step ${numbers.format(state.step)} of ${numbers.format(state.steps)}`;
    $("fit-state").textContent = `${state.psnr === null ? "∞" : state.psnr.toFixed(2)} dB · ${done}`;
    drawHistory(history);
  }
}

/** A state: the length of a JSON text, that text, then rows of splats in float32. */
async function readState(response) {
  const bytes = await response.arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const state = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  if (state.count) state.rows = new Float32Array(bytes.slice(4 + length));
  return state;
}

function drawHistory(history) {
  const known = history.filter(([, psnr]) => psnr !== null);
  const last = known.at(-1)?.[0] || 1;
  const values = known.map(([, psnr]) => psnr);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const points = known.map(([step, psnr]) => `${(118 * step) / last + 1},${26 - (24 * (psnr - low)) / span}`);
  $("history").firstElementChild.setAttribute("points", points.join(" "));
}

// Colours of splats: docs/format.md, section "Model".

const ROOTS = [Math.sqrt(3), Math.SQRT2, Math.sqrt(6)];

/** The colour factor O^T v of a splat. */
export function setColor(splats, at, v, factor) {
  for (let j = 0; j < v.length; j++) splats[at + j] = factor * v[j];
  if (v.length !== 3 && v.length !== 4) return;
  const light = v[0] / ROOTS[0];
  const warm = v[1] / ROOTS[1];
  const green = v[2] / ROOTS[2];
  splats[at] = factor * (light + warm + green);
  splats[at + 1] = factor * (light - 2 * green);
  splats[at + 2] = factor * (light - warm + green);
}

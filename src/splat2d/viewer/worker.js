// Decodes in a thread of its own, so that the page stays responsive.
// Takes {bytes} again and again, then {end: true}; gives {header, splats, complete, milliseconds} after each packet,
// splats by falling importance, and {error, cut} if something is wrong; cut: only the end of the file is missing.

import { FormatError } from "./container.js";
import { Decoder, byImportance } from "./decoder.js";

const decoder = new Decoder();
let milliseconds = 0;
let failed = false;

function take({ bytes, end }) {
  const started = performance.now();
  if (bytes && decoder.push(bytes)) {
    milliseconds += performance.now() - started;
    const { header, complete } = decoder;
    const splats = byImportance(decoder.splats, header.channels);
    postMessage({ header, splats, complete, milliseconds }, [splats.buffer]);
  }
  if (end) decoder.end();
}

onmessage = ({ data }) => {
  if (failed) return;
  try {
    take(data);
  } catch (error) {
    failed = true;
    // Files that lack their end still show what they hold.
    const cut = Boolean(data.end) && decoder.splats.length > 0;
    const memory = error instanceof RangeError;
    if (!(error instanceof FormatError) && !memory) throw error;
    postMessage({ error: memory ? "takes more memory than this browser has" : error.message, cut });
  }
};

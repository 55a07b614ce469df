// Decodes in a thread of its own, so that the page stays responsive.
// Takes {bytes} again and again, then {end: true}; gives {header, splats, complete, milliseconds} after packets, with
// splats by falling importance, and {error, cut} if something is wrong; cut: only the end of the file is missing.

import { FormatError } from "./container.js";
import { Decoder, byImportance } from "./decoder.js";

const LONG = 65536; // bytes of packets that take long enough to show something before

const decoder = new Decoder();
let milliseconds = 0;
let failed = false;

function take({ bytes, end }) {
  let started = performance.now();
  if (bytes)
    decoder.push(bytes, (left) => {
      milliseconds += performance.now() - started;
      if (left === 0 || left > LONG) show(decoder.container.complete && left === 0);
      started = performance.now();
    });
  if (end) decoder.end();
}

function show(complete) {
  const { header } = decoder;
  const splats = byImportance(decoder.splats, header.channels);
  postMessage({ header, splats, complete, milliseconds }, [splats.buffer]);
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

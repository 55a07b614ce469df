// What the parts of the page share.

import { ViewerError } from "./renderer.js";

export const $ = (id) => document.getElementById(id);
export const numbers = new Intl.NumberFormat("en");

/** Throws a ViewerError with a sentence for all that can go wrong. */
export async function request(address, name) {
  let response;
  try {
    response = await fetch(address, { credentials: "omit" });
  } catch {
    const isForeign = /^https?:/.test(address);
    throw new ViewerError(
      isForeign
        ? `${address} cannot be loaded: the server does not answer, or does not allow other pages to read it (CORS). ` +
            "Download the file and open it from disk."
        : `${name} cannot be loaded: the server does not answer.`,
    );
  }
  if (!response.ok) throw new ViewerError(`${address} cannot be loaded: the server says ${response.status}.`);
  return response;
}

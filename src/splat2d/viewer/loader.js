// The only script that a page in one file holds as it is: unpacks the others, which are deflated, and the data.

/** The bytes of an element: two in a character; 0xe000 goes before one whose bit 14 is flipped. */
function unpack(id) {
  const { textContent: text, dataset } = document.getElementById(id);
  const view = new DataView(new ArrayBuffer(2 * text.length));
  let end = 0;
  for (let i = 0; i < text.length; i++, end += 2) {
    const isEscape = text.charCodeAt(i) === 0xe000;
    view.setUint16(end, isEscape ? text.charCodeAt(++i) ^ 0x4000 : text.charCodeAt(i), true);
  }
  return new Uint8Array(view.buffer, 0, dataset.size);
}

async function inflate(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

function add(name, text) {
  document.head.append(Object.assign(document.createElement(name), { textContent: text }));
}

async function start() {
  const { style, body, worker, script } = JSON.parse(await inflate(unpack("packed")));
  globalThis.inlined = { worker, data: unpack("data") };
  add("style", style);
  document.body.innerHTML = body;
  add("script", script);
}

start().catch((error) => {
  document.body.textContent = `This page needs a browser of 2023 or later (${error.message}).`;
});

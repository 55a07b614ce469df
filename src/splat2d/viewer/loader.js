// The only script that a page in one file holds as it is: unpacks the others, which are deflated, and the data.
// Bytes are written in base 85 as by Python's b85encode, with "," for "<".

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";

function unpack(id) {
  const text = document.getElementById(id).textContent.trim();
  const values = new Map([...DIGITS].map((digit, i) => [digit, i]));
  const view = new DataView(new ArrayBuffer(4 * Math.ceil(text.length / 5)));
  for (let i = 0; i < text.length; i += 5) {
    let word = 0;
    for (let j = i; j < i + 5; j++) word = 85 * word + (values.get(text[j]) ?? 84);
    view.setUint32((i / 5) * 4, word);
  }
  return new Uint8Array(view.buffer, 0, Math.floor((text.length * 4) / 5));
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

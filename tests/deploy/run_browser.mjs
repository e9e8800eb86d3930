// Runs /fit.onnx on /feeds.json in a page, by the provider that is asked for; /ort is onnxruntime-web's dist.
// feeds.json and what is given back are as of run_web.mjs.
import * as ort from "/ort/ort.webgpu.bundle.min.mjs";

ort.env.wasm.wasmPaths = "/ort/";
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const kinds = { uint8: Uint8Array, float32: Float32Array };

function toBase64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

export async function run(provider) {
  const feeds = {};
  const given = await (await fetch("/feeds.json")).json();
  for (const [name, { type, dims, data }] of Object.entries(given)) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    feeds[name] = new ort.Tensor(type, new kinds[type](bytes.buffer), dims);
  }
  const session = await ort.InferenceSession.create("/fit.onnx", { executionProviders: [provider] });
  const outputs = await session.run(feeds);
  const found = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    const values = await tensor.getData();
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    found[name] = { dims: tensor.dims, data: toBase64(bytes) };
  }
  return found;
}

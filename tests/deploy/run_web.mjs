// Runs an exported model in onnxruntime-web, in WebAssembly on one thread:
//   node run_web.mjs NODE_MODULES MODEL.onnx FEEDS.json ROUNDS
// FEEDS.json: name -> {type, dims, data (base64)}. Prints name -> {dims, data} and milliseconds as JSON.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [, , modules, model, feedsFile, rounds] = process.argv;
const place = path.resolve(modules, "onnxruntime-web", "dist", "ort.wasm.min.mjs");
const ort = await import(pathToFileURL(place));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const kinds = { uint8: Uint8Array, float32: Float32Array };
const feeds = {};
for (const [name, { type, dims, data }] of Object.entries(JSON.parse(fs.readFileSync(feedsFile)))) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  feeds[name] = new ort.Tensor(type, new kinds[type](bytes.buffer), dims);
}
const begin = performance.now();
const session = await ort.InferenceSession.create(fs.readFileSync(model), {
  executionProviders: ["wasm"],
});
const loaded = performance.now() - begin;
let outputs;
const times = [];
for (let round = 0; round < Number(rounds); round++) {
  const start = process.cpuUsage();
  outputs = await session.run(feeds);
  const used = process.cpuUsage(start);
  times.push((used.user + used.system) / 1000);
}
const found = {};
for (const [name, tensor] of Object.entries(outputs)) {
  found[name] = {
    dims: tensor.dims,
    data: Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength).toString("base64"),
  };
}
console.log(JSON.stringify({ version: ort.env.versions?.web, loaded, times, outputs: found }));

// Runs an exported model in onnxruntime-web, in WebAssembly on one thread:
//   node run_web.mjs NODE_MODULES MODEL.onnx FEEDS.json ROUNDS
// FEEDS.json and the outputs are as of feeds.mjs; prints the outputs and milliseconds as JSON.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { fromTensors, toTensors } from "./feeds.mjs";

const [, , modules, model, feedsFile, rounds] = process.argv;
const place = path.resolve(modules, "onnxruntime-web", "dist", "ort.wasm.min.mjs");
const ort = await import(pathToFileURL(place));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const feeds = toTensors(ort, JSON.parse(fs.readFileSync(feedsFile)));
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
const found = await fromTensors(outputs);
console.log(JSON.stringify({ version: ort.env.versions?.web, loaded, times, outputs: found }));

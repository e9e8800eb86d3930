// Runs /fit.onnx on /feeds.json in a page, by the provider that is asked for; /ort is onnxruntime-web's dist.
import * as ort from "/ort/ort.webgpu.bundle.min.mjs";
import { fromTensors, toTensors } from "./feeds.mjs";

ort.env.wasm.wasmPaths = "/ort/";
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

export async function run(provider) {
  const feeds = toTensors(ort, await (await fetch("/feeds.json")).json());
  const session = await ort.InferenceSession.create("/fit.onnx", { executionProviders: [provider] });
  return fromTensors(await session.run(feeds));
}

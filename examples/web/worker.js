/* The networks, beside the page: a photo's pixels come in, its bodies go out. Nothing is sent anywhere. */
import { cropAround, cropImage } from "./imaging.js";
import { makePicture, readBoxes } from "./people.js";

let ort = null, models = null;

async function readJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}; build the folder again with make web`);
  return answer.json();
}

/* A file that was packed by gzip, telling the page how much of it has come. */
async function readPacked(path, tell) {
  const answer = await fetch(`${path}.pack`);
  if (!answer.ok) throw new Error(`${path}.pack: ${answer.status}; build the folder again with make web`);
  const counted = answer.body.pipeThrough(new TransformStream({ transform(part, out) { tell(part.length); out.enqueue(part); } }));
  return new Uint8Array(await new Response(counted.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

function checkCard(card) {
  if (card.format !== "eft_fast-export-1") throw new Error(`the model must be of format eft_fast-export-1, got ${card.format}; export it again`);
  for (const name of ["vertices", "joints", "cam"]) {
    if (!card.outputs[name]) throw new Error(`the model must give ${name}; export it with --outputs vertices`);
  }
  if (card.camera_convention !== "scale_shift") throw new Error(`the camera must be scale_shift, got ${card.camera_convention}`);
}

async function load() {
  const [card, detector, settings, sizes] = await Promise.all(
    ["model/export.json", "detector/detector.json", "settings.json", "files.json"].map(readJson));
  checkCard(card);
  const names = ["ort/ort-wasm-simd-threaded.wasm", "model/model.onnx", "detector/boxes.onnx"];
  const total = names.reduce((sum, name) => sum + sizes[`${name}.pack`], 0);
  let come = 0;
  const tell = count => postMessage({ kind: "progress", share: (come += count) / total });
  const [runtime, body, boxes] = await Promise.all(names.map(name => readPacked(name, tell)));
  ort = await import("./ort/ort.wasm.bundle.min.mjs");
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = runtime;
  // More than one thread needs memory that pages share, which servers must allow by two headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const open = bytes => ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  models = { card, detector, settings, body: await open(body), boxes: await open(boxes) };
  postMessage({ kind: "ready", threads: ort.env.wasm.numThreads, regressor: card.regressor, licence: card.licence, cropSize: card.input_size, margin: card.box_margin });
}

const run = async (session, pixels, shape) => {
  const answer = await session.run({ [session.inputNames[0]]: new ort.Tensor("uint8", pixels, shape) });
  return Object.fromEntries(Object.entries(answer).map(([name, tensor]) => [name, tensor.data]));
};

/* Points X of the body into the photo: u = s X + t in [-1, 1] of the crop; depth on the same scale. */
function toPhoto(points, cam, crop) {
  const half = crop.side / 2, [s, tx, ty] = cam, moved = new Float32Array(points.length);
  for (let k = 0; k < points.length; k += 3) {
    moved[k] = crop.center[0] + half * (s * points[k] + tx);
    moved[k + 1] = crop.center[1] + half * (s * points[k + 1] + ty);
    moved[k + 2] = half * s * points[k + 2];
  }
  return moved;
}

async function find({ photo, whole, most }) {
  const { card, detector, settings } = models, begin = performance.now();
  let found = [{ box: [0, 0, photo.width, photo.height], score: null }];
  if (!whole) {
    const seen = makePicture(photo, settings, detector.picture_size);
    const { cells } = await run(models.boxes, seen.picture, [1, seen.height, seen.width, 3]);
    found = readBoxes(cells, seen, photo, settings);
  }
  const searched = performance.now(), people = [];
  for (const { box, score } of found.slice(0, most)) {
    const crop = cropAround(box, card.input_size, card.box_margin), size = card.input_size;
    const answer = await run(models.body, cropImage(photo, crop), [1, size, size, 3]);
    people.push({ box, score, crop, cam: [...answer.cam], betas: [...answer.betas], rotmat: answer.rotmat, meshM: answer.vertices, jointsM: answer.joints,
      mesh: toPhoto(answer.vertices, answer.cam, crop), joints: toPhoto(answer.joints, answer.cam, crop),
      pixelsPerMetre: crop.side / 2 * answer.cam[0] });
  }
  const ended = performance.now();
  return { people, leftOut: Math.max(0, found.length - most), searchMs: searched - begin, bodiesMs: ended - searched };
}

onmessage = async ({ data }) => {
  try {
    if (data.kind === "load") await load();
    else postMessage({ kind: "found", id: data.id, ...await find(data) });
  } catch (error) {
    postMessage({ kind: "failed", id: data.id, message: error instanceof Error ? error.message : String(error) });
  }
};

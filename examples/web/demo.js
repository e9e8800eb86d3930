/* The page: photos in, bodies out. */
import { Scene } from "./scene.js";

const $ = id => document.getElementById(id);
const MOST_PEOPLE = 8;
const MOST_PIXELS = 24e6;  // photos of more are shrunk first

let scene = null, photo = null, answer = null, stream = null, runs = 0, waiting = null;
let isReady = false;

function say(text, isBad = false) { $("said").textContent = text; $("said").classList.toggle("bad", isBad); }
function tellWork(text, share) {
  $("busy").hidden = !text;
  $("doing").textContent = text || "";
  if (share === undefined) $("progress").removeAttribute("value"); else $("progress").value = share;
}

const worker = new Worker("worker.js", { type: "module" });
worker.onerror = event => { tellWork(""); say(`The worker stopped: ${event.message || "its script cannot be loaded"}`, true); };
worker.onmessage = ({ data }) => {
  if (data.kind === "progress") tellWork(`loading the networks, ${Math.round(100 * data.share)} %`, data.share);
  else if (data.kind === "ready") {
    isReady = true;
    document.body.dataset.ready = "";
    tellWork("");
    $("facts").textContent = `Regressor ${data.regressor} (${data.licence}), WebAssembly, ${data.threads} thread${data.threads > 1 ? "s" : ""}`
      + `; crops of ${data.cropSize} px, ${data.margin} times the box.`;
    if (waiting) { const whole = waiting.whole; waiting = null; find(whole); }
  } else if (data.kind === "failed") {
    tellWork("");
    say(data.message, true);
    if (data.id) document.body.dataset.done = data.id;
  } else show(data);
};

/* Decode as the package does: turned by EXIF, colours as they are stored, transparent on black. */
async function readPhoto(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "default" });
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  return takePixels(bitmap, Math.max(1, Math.round(bitmap.width * shrink)), Math.max(1, Math.round(bitmap.height * shrink)));
}
function takePixels(source, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  pen.drawImage(source, 0, 0, width, height);
  return { canvas, width, height, data: pen.getImageData(0, 0, width, height).data };
}

async function openPhoto(blob, name) {
  stopCamera();
  try {
    photo = await readPhoto(blob);
  } catch (error) {
    say(`${name || "The file"} is not a picture that this browser can read.`, true);
    return;
  }
  $("drop").hidden = true;
  $("people").replaceChildren();
  $("nobody").hidden = true;
  say("");
  scene.reset();
  scene.setPhoto(photo.canvas, photo.width, photo.height);
  find(false);
}

function find(whole) {
  if (!isReady) { waiting = { whole }; return; }
  runs += 1;
  tellWork(stream ? "" : whole ? "one person" : "looking for people");
  const { data, width, height } = photo;
  worker.postMessage({ kind: "find", id: runs, photo: { data, width, height }, whole, most: stream ? 2 : MOST_PEOPLE });
}

function show(found) {
  if (found.id !== runs) return;
  tellWork("");
  answer = found;
  if (stream) scene.setPhoto(photo.canvas, photo.width, photo.height);
  const chosen = Math.min(scene.chosen, Math.max(0, found.people.length - 1));
  scene.setPeople(found.people);
  scene.choose(chosen);
  $("nobody").hidden = found.people.length > 0 || Boolean(stream);
  const count = found.people.length, milliseconds = Math.round(found.searchMs + found.bodiesMs);
  say(count === 0 ? "" : `${count} ${count === 1 ? "person" : "people"} in ${milliseconds} ms: ${Math.round(found.searchMs)} to find them, `
    + `${Math.round(found.bodiesMs / count)} each for the body.` + (found.leftOut ? ` ${found.leftOut} more were left out.` : ""));
  $("people").replaceChildren(...(count < 2 ? [] : found.people.map((one, place) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `person ${place + 1}` + (one.score === null ? "" : `, sure to ${Math.round(100 * one.score)} %`);
    button.setAttribute("aria-pressed", String(place === scene.chosen));
    button.addEventListener("click", () => {
      scene.choose(place);
      [...$("people").querySelectorAll("button")].forEach((other, k) => other.setAttribute("aria-pressed", String(k === place)));
    });
    item.append(button);
    return item;
  })));
  document.body.dataset.done = String(found.id);
  if (stream) nextFrame();
}

/* The camera: a frame at a time, the next when the last one is done. */
async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    stream = null;
    say(`The camera cannot be used: ${error.message}`, true);
    return;
  }
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  stream.video = video;
  $("camera").setAttribute("aria-pressed", "true");
  $("drop").hidden = true;
  $("nobody").hidden = true;
  say("");
  scene.reset();
  nextFrame();
}
function nextFrame() {
  if (!stream) return;
  const { video } = stream;
  if (!video.videoWidth) { requestAnimationFrame(nextFrame); return; }
  photo = takePixels(video, video.videoWidth, video.videoHeight);
  find(false);
}
function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("camera").setAttribute("aria-pressed", "false");
}

const samples = await (await fetch("samples.json")).json();
for (const { file, name } of samples) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.addEventListener("click", async () => openPhoto(await (await fetch(file)).blob(), name));
  $("samples").append(button);
}
$("file").addEventListener("change", () => { const [file] = $("file").files; if (file) openPhoto(file, file.name); $("file").value = ""; });
$("camera").addEventListener("click", () => { if (stream) stopCamera(); else startCamera(); });
$("whole").addEventListener("click", () => find(true));
$("camera").hidden = !navigator.mediaDevices;
for (const kind of ["dragenter", "dragover"]) window.addEventListener(kind, event => { event.preventDefault(); $("stage").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) window.addEventListener(kind, event => { event.preventDefault(); $("stage").classList.remove("over"); });
window.addEventListener("drop", event => { const [file] = event.dataTransfer.files; if (file) openPhoto(file, file.name); });
window.addEventListener("paste", event => { const [file] = event.clipboardData.files; if (file) openPhoto(file, file.name); });

const faces = new Uint32Array(await (await fetch("faces.bin")).arrayBuffer());
scene = new Scene($("view"), faces);
if (!scene.gl) {
  say("This browser has no WebGL 2, so the bodies cannot be drawn here.", true);
  document.querySelectorAll("button, input").forEach(element => { element.disabled = true; });
} else {
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => scene.look(button.dataset.view));
  for (const button of document.querySelectorAll("[data-toggle]")) button.addEventListener("click", () => {
    const name = button.dataset.toggle;
    scene.shown[name] = !scene.shown[name];
    button.setAttribute("aria-pressed", String(scene.shown[name]));
    scene.draw();
  });
  $("opacity").addEventListener("input", () => { scene.opacity = Number($("opacity").value); scene.draw(); });
  tellWork("loading the networks", 0);
  worker.postMessage({ kind: "load" });
  scene.draw();
}
/* For tests and for whoever wants the numbers. */
globalThis.demo = { get answer() { return answer; }, get photo() { return photo; } };

/* Boxes of people around the exported YOLOX, as eft_fast.person_boxes finds them. The numbers come from there, in settings.json. */
import { cropImage } from "./imaging.js";

/* The whole photo as the network sees it, and how boxes come back. */
export function makePicture(photo, settings, size) {
  const side = Math.max(photo.width, photo.height, 1), shift = (side / size - 1) / 2;
  const center = [photo.width, photo.height].map(length => side / 2 - Math.floor((side - length) / 2) + shift);
  const square = { center, side, size }, pixels = cropImage(photo, square, settings.fill), cell = Math.max(...settings.strides);
  const toCrop = (value, axis) => (value - center[axis]) * size / side + size / 2;
  const low = [0, 1].map(axis => Math.max(Math.floor((toCrop(-0.5, axis) + 0.5) / cell), 0) * cell);
  const high = [photo.width, photo.height].map((length, axis) =>
    Math.min(Math.ceil((toCrop(length - 0.5, axis) + 0.5) / cell), Math.floor(size / cell)) * cell);
  const width = high[0] - low[0], height = high[1] - low[1], picture = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; ++y) {
    const from = 3 * ((low[1] + y) * size + low[0]);
    picture.set(pixels.subarray(from, from + 3 * width), 3 * y * width);
  }
  return { picture, width, height, low, square };
}

/* From cells [N, 6] to boxes x, y, w, h in photo pixels with their scores, the surest first. */
export function readBoxes(cells, seen, photo, settings) {
  const found = [];
  let at = 0;
  for (const stride of settings.strides) {
    const columns = Math.floor(seen.width / stride), rows = Math.floor(seen.height / stride);
    for (let y = 0; y < rows; ++y) for (let x = 0; x < columns; ++x, at += 6) {
      const score = cells[at + 4] * cells[at + 5];
      if (!(score >= settings.leastScore)) continue;
      const w = Math.exp(Math.min(cells[at + 2], settings.mostLog)) * stride, h = Math.exp(Math.min(cells[at + 3], settings.mostLog)) * stride;
      found.push({ x: (x + cells[at]) * stride - w / 2 + seen.low[0], y: (y + cells[at + 1]) * stride - h / 2 + seen.low[1], w, h, score });
    }
  }
  if (at !== cells.length) throw new Error(`the detector answered ${cells.length / 6} cells for ${at / 6}`);
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const box of found) if (kept.every(other => overlap(box, other) <= settings.mostOverlap)) kept.push(box);
  // The network counts from the picture's edge, the photo from the centre of its first pixel.
  const { center, side, size } = seen.square, edge = [photo.width - 1, photo.height - 1];
  const toPhoto = (value, axis) => Math.min(edge[axis], Math.max(0, (value - 0.5 - size / 2) * side / size + center[axis]));
  return kept.map(({ x, y, w, h, score }) => {
    const left = toPhoto(x, 0), top = toPhoto(y, 1);
    return { box: [left, top, toPhoto(x + w, 0) - left, toPhoto(y + h, 1) - top], score };
  }).filter(({ box }) => Math.max(box[2], box[3]) >= settings.leastSide && Math.min(box[2], box[3]) > 0);
}

function overlap(a, b) {
  const w = Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x), h = Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y);
  const both = Math.max(w, 0) * Math.max(h, 0);
  return both / (a.w * a.h + b.w * b.h - both);
}

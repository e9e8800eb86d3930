/* The crop of eft_fast.imaging, byte for byte: Pillow's bilinear resampling in its fixed-point arithmetic. Pixels are RGBA in, RGB out. */

const PRECISION_BITS = 22;  // of Pillow's filter weights
const BOX_UNIT = 200;
const MIN_SIDE = 1, MAX_SIDE = 15000;  // photo pixels

/* The square around a box x, y, w, h: centre and side in photo pixels, size in crop pixels. */
export function cropAround(box, size, margin) {
  // Through bbox_scale, as the package goes, so that both round alike.
  const scale = margin * Math.max(box[2], box[3]) / BOX_UNIT, side = scale * BOX_UNIT;
  if (!(side >= MIN_SIDE && side <= MAX_SIDE)) throw new Error(`the crop must be ${MIN_SIDE} to ${MAX_SIDE} pixels wide, got ${side}`);
  return { center: [box[0] + box[2] / 2, box[1] + box[3] / 2], side, size };
}

/* Cut the crop out of a photo { data, width, height }; grey where there is none. */
export function cropImage(photo, crop, fill = 0) {
  const out = new Uint8Array(crop.size * crop.size * 3).fill(fill);
  const columns = span(crop.center[0] - crop.side / 2, crop, photo.width), rows = span(crop.center[1] - crop.side / 2, crop, photo.height);
  if (!columns || !rows) return out;
  const across = weights(columns), down = weights(rows);
  const wide = columns.last - columns.first, high = rows.last - rows.first;
  // First along the rows, of those rows alone that the second pass reads.
  const top = down.begin[0], bottom = down.begin[high - 1] + down.count[high - 1];
  const middle = new Uint8Array((bottom - top) * wide * 3);
  for (let y = top; y < bottom; ++y) {
    const source = rows.patch + y, isInside = source >= 0 && source < photo.height;
    for (let x = 0; x < wide; ++x) {
      let r = 1 << (PRECISION_BITS - 1), g = r, b = r;
      for (let k = 0, at = columns.patch + across.begin[x]; k < across.count[x]; ++k, ++at) {
        const weight = across.weight[x * across.most + k];
        if (isInside && at >= 0 && at < photo.width) {
          const place = 4 * (source * photo.width + at);
          r += photo.data[place] * weight; g += photo.data[place + 1] * weight; b += photo.data[place + 2] * weight;
        } else { r += fill * weight; g += fill * weight; b += fill * weight; }
      }
      const place = 3 * ((y - top) * wide + x);
      middle[place] = clip(r); middle[place + 1] = clip(g); middle[place + 2] = clip(b);
    }
  }
  for (let y = 0; y < high; ++y) for (let x = 0; x < wide; ++x) {
    let r = 1 << (PRECISION_BITS - 1), g = r, b = r;
    for (let k = 0, at = down.begin[y] - top; k < down.count[y]; ++k, ++at) {
      const weight = down.weight[y * down.most + k], place = 3 * (at * wide + x);
      r += middle[place] * weight; g += middle[place + 1] * weight; b += middle[place + 2] * weight;
    }
    const place = 3 * ((rows.first + y) * crop.size + columns.first + x);
    out[place] = clip(r); out[place + 1] = clip(g); out[place + 2] = clip(b);
  }
  return out;
}

const clip = value => Math.max(0, Math.min(255, value >> PRECISION_BITS));

/* Along one axis: the crop pixels that touch the photo, and what of the photo they are resampled from (crop._resample_span). */
function span(start, crop, length) {
  const step = crop.side / crop.size, reach = Math.max(step, 1);
  const first = Math.max(0, Math.ceil((-1 - reach - start) / step));
  const last = Math.min(crop.size, Math.floor((length + reach - start) / step) + 1);
  if (first >= last) return null;
  const low = start + (first - 0.5) * step + 0.5, high = start + (last - 0.5) * step + 0.5;
  const patch = Math.floor(low - reach) - 1;
  return { first, last, patch, extent: Math.ceil(high + reach) + 1 - patch, low: low - patch, high: high - patch };
}

/* Pillow's filter for each pixel that comes out: where it begins in the patch, and its weights. Pillow takes the box in single precision. */
function weights({ first, last, extent, low, high }) {
  const count = last - first, from = Math.fround(low), scale = Math.fround(Math.fround(high) - from) / count;
  const support = Math.max(scale, 1), most = Math.ceil(support) * 2 + 1;
  const found = { begin: new Int32Array(count), count: new Int32Array(count), most, weight: new Int32Array(count * most) };
  for (let i = 0; i < count; ++i) {
    const center = from + (i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(center - support + 0.5)), end = Math.min(extent, Math.trunc(center + support + 0.5));
    const values = [];
    for (let x = begin; x < end; ++x) values.push(Math.max(0, 1 - Math.abs((x - center + 0.5) * (1 / support))));
    const sum = values.reduce((a, b) => a + b, 0);
    found.begin[i] = begin;
    found.count[i] = end - begin;
    values.forEach((value, k) => { found.weight[i * most + k] = Math.trunc(0.5 + value / sum * (1 << PRECISION_BITS)); });
  }
  return found;
}

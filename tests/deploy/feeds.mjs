// Tensors as JSON, in node and in a browser: name -> {type, dims, data (base64)} in, {dims, data} out.

const kinds = { uint8: Uint8Array, float32: Float32Array };

export function toTensors(ort, given) {
  const feeds = {};
  for (const [name, { type, dims, data }] of Object.entries(given)) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    feeds[name] = new ort.Tensor(type, new kinds[type](bytes.buffer), dims);
  }
  return feeds;
}

export async function fromTensors(outputs) {
  const found = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    const values = await tensor.getData();
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    found[name] = { dims: tensor.dims, data: toBase64(bytes) };
  }
  return found;
}

function toBase64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

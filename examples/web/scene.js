/* The photo and its bodies in WebGL 2: from where it was taken each body lies on its person; turned, they turn with the photo behind them.
   Space is that of the photo, pixels to the right and down, and depth on the same scale, with parallel rays, as the weak camera has it. */

const Z = { camera: [0, 0], turned: [-0.7, 0.2], side: [-Math.PI / 2, 0], back: [Math.PI, 0], top: [0, Math.PI / 2] };
const COLOUR = [0.52, 0.76, 0.95], PALE = COLOUR.map(x => 0.45 * x + 0.42), DOT = [0.06, 0.32, 0.58];

export class Scene {
  constructor(canvas, faces) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
    if (!this.gl) return;
    this.faces = faces;
    this.programs = Solid.makePrograms(this.gl);
    const index = this.gl.createBuffer();
    this.gl.bindBuffer(this.gl.ELEMENT_ARRAY_BUFFER, index);
    this.gl.bufferData(this.gl.ELEMENT_ARRAY_BUFFER, faces, this.gl.STATIC_DRAW);
    this.shown = { photo: true, joints: false };
    this.opacity = 0.85;
    this.people = [];
    this.chosen = 0;
    this.size = null;
    this.reset();
    this.listen();
  }

  reset() { Object.assign(this, { turn: 0, tilt: 0, zoom: 1, pan: [0, 0] }); }

  /* Show a photo, before anybody is found in it. */
  setPhoto(picture, width, height) {
    const gl = this.gl;
    if (this.texture) gl.deleteTexture(this.texture);
    this.texture = Solid.makeTexture(gl, picture);
    this.size = [width, height];
    this.setPeople([]);
  }

  /* People of the photo: mesh and joints in its pixels, and how many of them a metre takes. */
  setPeople(people) {
    const gl = this.gl;
    for (const { buffers } of this.people) buffers.forEach(buffer => gl.deleteBuffer(buffer));
    // How far somebody stands is told by the size alone, for the focal length that photos are taken to have: their diagonal.
    const focal = this.size ? Math.hypot(...this.size) : 0, scales = people.map(one => one.pixelsPerMetre);
    const common = scales.length ? [...scales].sort((a, b) => a - b)[scales.length >> 1] : 0, nearest = Math.max(...scales);
    this.people = people.map(one => {
      const away = common * focal * (1 / one.pixelsPerMetre - 1 / nearest);
      // Upwards is up, and towards the eye is near.
      const upright = points => Float32Array.from(points, (x, k) => k % 3 === 0 ? x : k % 3 === 1 ? -x : -x - away);
      const mesh = upright(one.mesh), joints = upright(one.joints);
      const low = [0, 1, 2].map(k => mesh.reduce((least, x, i) => i % 3 === k && x < least ? x : least, Infinity));
      const high = [0, 1, 2].map(k => mesh.reduce((most, x, i) => i % 3 === k && x > most ? x : most, -Infinity));
      const buffers = [mesh, Solid.findNormals(mesh, this.faces), joints].map(array => this.buffer(array));
      return { buffers, low, high, count: joints.length / 3 };
    });
    this.chosen = 0;
    this.photoBuffers?.forEach(buffer => gl.deleteBuffer(buffer));
    this.photoBuffers = null;
    if (this.size) {
      const [w, h] = this.size, depth = Math.min(0, ...this.people.map(one => one.low[2])) - 0.03 * Math.max(w, h);
      const corner = (x, y) => [x - 0.5, 0.5 - y, depth];
      this.photoBuffers = [this.buffer(new Float32Array([...corner(0, 0), ...corner(w, 0), ...corner(0, h), ...corner(w, h)])),
        this.buffer(new Float32Array([0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0]))];
    }
    this.draw();
  }

  choose(place) { this.chosen = place; this.draw(); }

  look(name) {
    this.reset();
    [this.turn, this.tilt] = Z[name];
    this.draw();
  }

  buffer(array) {
    const gl = this.gl, made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
    return made;
  }

  bind(place, made) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
  }

  /* What is turned about: the person's middle, or the photo's. */
  pivot() {
    const one = this.people[this.chosen], [w, h] = this.size;
    return one ? one.low.map((x, k) => (x + one.high[k]) / 2) : [w / 2, -h / 2, 0];
  }

  matrices() {
    const [c, s, d, t] = [Math.cos(this.turn), Math.sin(this.turn), Math.cos(this.tilt), Math.sin(this.tilt)];
    const rows = [[c, 0, -s], [-s * t, d, -c * t], [s * d, t, c * d]], pivot = this.pivot(), [w, h] = this.size;
    const { width, height } = this.canvas, scale = Math.min(width / w, height / h) * 0.98, reach = 4 * (w + h) + Math.abs(pivot[2]) * 2;
    // The pivot stays where the photo shows it, and is what the zoom goes to.
    const stays = [pivot[0] - (w - 1) / 2, pivot[1] + (h - 1) / 2], k = scale * this.zoom;
    const back = rows.map(row => -row.reduce((sum, x, i) => sum + x * pivot[i], 0));
    const view = new Float32Array([0, 1, 2].flatMap(i => [rows[0][i], rows[1][i], rows[2][i], 0]).concat([...back, 1]));
    const lens = new Float32Array([2 * k / width, 0, 0, 0, 0, 2 * k / height, 0, 0, 0, 0, -1 / reach, 0,
      2 * (stays[0] * scale + this.pan[0]) / width, 2 * (stays[1] * scale + this.pan[1]) / height, 0, 1]);
    return { view, whole: Solid.product(lens, view) };
  }

  draw() {
    if (this.isWaiting || !this.gl) return;
    this.isWaiting = true;
    requestAnimationFrame(() => { this.isWaiting = false; this.paint(); });
  }

  paint() {
    const gl = this.gl, canvas = this.canvas;
    Solid.fitCanvas(canvas);
    gl.viewport(0, 0, canvas.width, canvas.height);
    const page = getComputedStyle(canvas.parentElement).backgroundColor.match(/[\d.]+/g).map(x => x / 255);
    gl.clearColor(page[0], page[1], page[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.size) return;
    gl.enable(gl.DEPTH_TEST);
    const { view, whole } = this.matrices(), { body, line, photo } = this.programs;
    if (this.shown.photo) {
      gl.useProgram(photo.program);
      gl.uniformMatrix4fv(photo.place.whole, false, whole);
      gl.bindTexture(gl.TEXTURE_2D, this.texture);
      this.photoBuffers.forEach((made, place) => this.bind(place, made));
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    this.people.forEach((one, place) => {
      gl.useProgram(body.program);
      gl.uniformMatrix4fv(body.place.view, false, view);
      gl.uniformMatrix4fv(body.place.whole, false, whole);
      gl.uniform3fv(body.place.colour, place === this.chosen ? COLOUR : PALE);
      this.bind(0, one.buffers[0]);
      this.bind(1, one.buffers[1]);
      Solid.drawSurface(gl, body, this.faces.length, this.opacity);
    });
    if (!this.shown.joints) return;
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(line.program);
    gl.uniformMatrix4fv(line.place.whole, false, whole);
    gl.disableVertexAttribArray(1);
    for (const one of this.people) {
      this.bind(0, one.buffers[2]);
      for (const [size, colour] of [[7, [1, 1, 1, 1]], [4.5, [...DOT, 1]]]) {
        gl.uniform1f(line.place.size, size * (window.devicePixelRatio || 1));
        gl.uniform4fv(line.place.colour, colour);
        gl.drawArrays(gl.POINTS, 0, one.count);
      }
    }
  }

  listen() {
    const canvas = this.canvas, held = new Map();
    const middle = () => { const all = [...held.values()]; return [0, 1].map(k => all.reduce((sum, at) => sum + at[k], 0) / all.length); };
    const spread = () => { const [a, b] = [...held.values()]; return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0; };
    const orbit = (dx, dy) => { this.turn += dx * 0.01; this.tilt = Math.max(-1.57, Math.min(1.57, this.tilt + dy * 0.01)); };
    const slide = (dx, dy) => { const ratio = window.devicePixelRatio || 1; this.pan = [this.pan[0] + dx * ratio, this.pan[1] - dy * ratio]; };
    const near = by => { this.zoom = Math.max(0.2, Math.min(30, this.zoom * by)); };
    canvas.addEventListener("pointerdown", event => { held.set(event.pointerId, [event.clientX, event.clientY]); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", event => {
      if (!held.has(event.pointerId)) return;
      const before = middle(), apart = spread();
      held.set(event.pointerId, [event.clientX, event.clientY]);
      const after = middle(), dx = after[0] - before[0], dy = after[1] - before[1];
      if (held.size > 1) { slide(dx, dy); if (apart && spread()) near(spread() / apart); }
      else if (event.shiftKey || event.buttons === 2 || event.buttons === 4) slide(dx, dy);
      else orbit(-dx, dy);
      this.draw();
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, event => held.delete(event.pointerId));
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("wheel", event => { event.preventDefault(); near(Math.exp(-event.deltaY * 0.001)); this.draw(); }, { passive: false });
    canvas.addEventListener("keydown", event => {
      const turn = { ArrowLeft: [12, 0], ArrowRight: [-12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
      if (turn) orbit(...turn); else if (event.key === "+") near(1.15); else if (event.key === "-") near(0.87); else return;
      event.preventDefault();
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
}

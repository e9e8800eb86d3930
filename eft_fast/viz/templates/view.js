(function () {
  "use strict";
  const $ = id => document.getElementById(id);
  const content = JSON.parse($("content").textContent), scenes = content.scenes;
  const canvas = $("view");
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
  const everyone = scenes.flatMap((scene, at) => scene.people.map((person, place) => ({ scene, at, person, place })));
  const label = one => [one.person.number, one.scene.name, one.person.id].filter(Boolean).join("  ");
  const number = (x, unit) => x === null ? "\u2013" : x + unit;
  const tellErrors = person => `keypoint error ${number(person.before, " px")} at the start, ${number(person.after, " px")} of the fit; `
    + `height ${number(person.height, " m")}`;

  if (!gl) {
    canvas.hidden = true;
    $("fallback").hidden = false;
    document.querySelectorAll("header button, header select").forEach(element => { element.disabled = true; });
    for (const one of everyone) {
      const line = document.createElement("li");
      line.value = one.person.number;
      line.textContent = `${label(one)}: ${tellErrors(one.person)}`;
      $("list").append(line);
    }
    return;
  }

  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
  const faces = new Uint32Array(bytes(content.faces));
  const bones = content.parents.flatMap((parent, joint) => parent < 0 ? [] : [parent, joint]);
  const colours = {
    init: { body: [0.96, 0.74, 0.45], joints: [0.66, 0.38, 0.02] }, final: { body: [0.52, 0.76, 0.95], joints: [0.06, 0.32, 0.58] },
  };
  const shown = { init: false, final: true, joints: false, photo: true, ground: true, others: true };
  let current = -1, loaded = null;
  // Where from: turned and tilted about the target, at a distance, moved sideways; focal length in pixels of the photo.
  const eye = { turn: 0, tilt: 0, distance: 5, pan: [0, 0], target: [0, 0, 0] };

  function lookout() {
    const [c, s, d, t] = [Math.cos(eye.turn), Math.sin(eye.turn), Math.cos(eye.tilt), Math.sin(eye.tilt)];
    // Rows are the eye's right, up and back.
    const rows = [[c, 0, -s], [-s * t, d, -c * t], [s * d, t, c * d]];
    const away = rows.map((row, k) => -row.reduce((sum, x, i) => sum + x * eye.target[i], 0) - [eye.pan[0], eye.pan[1], eye.distance][k]);
    return new Float32Array([0, 1, 2, 3].flatMap(k => k < 3 ? [rows[0][k], rows[1][k], rows[2][k], 0] : [...away, 1]));
  }
  /* The photo's own pinhole, so that it lies on the bodies as it was taken, as large as the canvas has room for. */
  function lens() {
    const scene = loaded.scene, [w, h] = scene.size, k = Math.min(canvas.width / w, canvas.height / h) * 0.98;
    const [fx, fy] = scene.focal.map(f => f * k);
    const shift = [(scene.principal[0] - (w - 1) / 2) * k, (scene.principal[1] - (h - 1) / 2) * k];
    const near = Math.max(0.02, eye.distance * 0.02), far = eye.distance * 4 + loaded.reach * 3 + 60;
    return new Float32Array([2 * fx / canvas.width, 0, 0, 0, 0, 2 * fy / canvas.height, 0, 0,
      -2 * shift[0] / canvas.width, 2 * shift[1] / canvas.height, -(far + near) / (far - near), -1, 0, 0, -2 * far * near / (far - near), 0]);
  }

  const { body: bodyProgram, line: lineProgram, photo: photoProgram } = Solid.makePrograms(gl);
  const index = gl.createBuffer();
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, index);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);

  function buffer(array) {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
    return made;
  }
  function attribute(place, made) {
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
  }
  function unpack(packed) {
    const raw = new Uint16Array(bytes(packed.data)), points = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; ++i) points[i] = packed.low[i % 3] + raw[i] * packed.step[i % 3];
    return { points, normals: Solid.findNormals(points, faces) };
  }

  /* One photo's people are on the graphics card at a time. */
  function load(scene) {
    if (loaded) {
      for (const made of loaded.buffers) gl.deleteBuffer(made);
      if (loaded.texture) gl.deleteTexture(loaded.texture);
    }
    loaded = { scene, buffers: [], people: [], texture: null, reach: 0, isReady: false };
    const mine = loaded, keep = array => { const made = buffer(array); mine.buffers.push(made); return made; };
    for (const person of scene.people) {
      const bodies = {};
      for (const [which, packed] of Object.entries(person.bodies)) {
        const { points, normals } = unpack(packed), joints = packed.joints;
        const low = packed.low, high = low.map((x, k) => x + 65535 * packed.step[k]);
        mine.reach = Math.max(mine.reach, -low[2]);
        bodies[which] = { point: keep(points), normal: keep(normals), low, high, joints,
          joint: keep(new Float32Array(joints.flat())), bone: keep(new Float32Array(bones.flatMap(k => joints[k]))) };
      }
      mine.people.push(bodies);
    }
    if (!scene.photo) { mine.isReady = true; return; }
    const depth = mine.reach + 0.35, [w, h] = scene.size, [fx, fy] = scene.focal, [cx, cy] = scene.principal;
    const corner = (u, v) => [(u - cx) / fx * depth, -(v - cy) / fy * depth, -depth];
    mine.plane = keep(new Float32Array([...corner(-0.5, -0.5), ...corner(w - 0.5, -0.5), ...corner(-0.5, h - 0.5), ...corner(w - 0.5, h - 0.5)]));
    mine.planeAt = keep(new Float32Array([0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0]));
    const picture = new Image();
    picture.onload = () => {
      if (loaded !== mine) return;
      mine.texture = Solid.makeTexture(gl, picture);
      mine.isReady = true;
      draw();
    };
    picture.src = scene.photo;
  }

  const body = () => { const bodies = loaded.people[everyone[current].place]; return bodies.final || bodies.init; };
  function choose(wanted, keepsView) {
    const before = current < 0 ? null : everyone[current].scene;
    current = (wanted + everyone.length) % everyone.length;
    const one = everyone[current];
    if (one.scene !== before) load(one.scene);
    $("who").value = current;
    $("facts").textContent = tellErrors(one.person);
    $("guess").hidden = !one.scene.assumed || one.scene.people.length < 2;
    const { low, high } = body();
    eye.target = low.map((x, k) => (x + high[k]) / 2);
    if (keepsView) settle(eye.name || "camera"); else settle("camera");
    try { history.replaceState(null, "", "#" + one.person.number); } catch (error) { /* some browsers refuse it for files */ }
  }
  /* From where the photo was taken the eye is at the origin; elsewhere the person is in the middle. */
  function settle(name) {
    const [x, y, z] = eye.target, { low, high } = body(), size = Math.hypot(...high.map((top, k) => top - low[k]));
    eye.name = name;
    const angles = { camera: [0, 0], turned: [-0.7, 0.2], side: [-Math.PI / 2, 0], top: [0, Math.PI / 2] };
    [eye.turn, eye.tilt] = angles[name] || [eye.turn, eye.tilt];
    if (name === "camera") {
      eye.distance = -z;
      eye.pan = [-x, -y];
    } else {
      const scene = loaded.scene, k = Math.min(canvas.width / scene.size[0], canvas.height / scene.size[1]);
      // So far away that the person takes up half of the canvas.
      eye.distance = scene.focal[1] * k * size / (0.55 * Math.min(canvas.width, canvas.height));
      eye.pan = [0, 0];
    }
    draw();
  }

  let isWaiting = false;
  function draw() {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => { isWaiting = false; paint(); });
  }
  function paint() {
    Solid.fitCanvas(canvas);
    gl.viewport(0, 0, canvas.width, canvas.height);
    const page = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(x => x / 255);
    gl.clearColor(page[0], page[1], page[2], 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const view = lookout(), whole = Solid.product(lens(), view);
    if (shown.photo && loaded.texture) {
      gl.useProgram(photoProgram.program);
      gl.uniformMatrix4fv(photoProgram.place.whole, false, whole);
      attribute(0, loaded.plane);
      attribute(1, loaded.planeAt);
      gl.bindTexture(gl.TEXTURE_2D, loaded.texture);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    if (shown.ground) drawGround(whole);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, index);
    loaded.people.forEach((bodies, place) => {
      const isMine = place === everyone[current].place;
      if (!isMine && !shown.others) return;
      for (const which of ["init", "final"]) if (shown[which] && bodies[which]) drawBody(bodies[which], which, isMine, view, whole);
    });
    if (shown.joints) loaded.people.forEach((bodies, place) => {
      if (place !== everyone[current].place && !shown.others) return;
      for (const which of ["init", "final"]) if (shown[which] && bodies[which]) drawJoints(bodies[which], which, whole);
    });
    canvas.dataset.ready = String(loaded.isReady);
  }
  function drawBody(one, which, isMine, view, whole) {
    gl.useProgram(bodyProgram.program);
    gl.uniformMatrix4fv(bodyProgram.place.view, false, view);
    gl.uniformMatrix4fv(bodyProgram.place.whole, false, whole);
    // The others are paler, not of another colour: colours say start and fit.
    gl.uniform3fv(bodyProgram.place.colour, colours[which].body.map(x => isMine ? x : 0.45 * x + 0.42));
    attribute(0, one.point);
    attribute(1, one.normal);
    Solid.drawSurface(gl, bodyProgram, faces.length, shown.joints ? 0.6 : 1);
  }
  function drawLines(whole, made, count, kind, colour, size) {
    gl.useProgram(lineProgram.program);
    gl.uniformMatrix4fv(lineProgram.place.whole, false, whole);
    gl.uniform4fv(lineProgram.place.colour, colour);
    gl.uniform1f(lineProgram.place.size, size || 1);
    gl.disableVertexAttribArray(1);
    attribute(0, made);
    gl.drawArrays(kind, 0, count);
  }
  function drawJoints(one, which, whole) {
    gl.disable(gl.DEPTH_TEST);
    drawLines(whole, one.bone, bones.length, gl.LINES, [...colours[which].joints, 1]);
    const size = 5 * (window.devicePixelRatio || 1);
    drawLines(whole, one.joint, one.joints.length, gl.POINTS, [1, 1, 1, 1], size + 3);
    drawLines(whole, one.joint, one.joints.length, gl.POINTS, [...colours[which].joints, 1], size);
    gl.enable(gl.DEPTH_TEST);
  }
  let ground = null;
  function drawGround(whole) {
    const level = body().low[1], [x, , z] = eye.target, key = [level, x, z].join();
    if (!ground || ground.key !== key) {
      if (ground) gl.deleteBuffer(ground.made);
      const lines = [];
      for (let k = -4; k <= 4; ++k) {
        lines.push(x + k, level, z - 4, x + k, level, z + 4, x - 4, level, z + k, x + 4, level, z + k);
      }
      ground = { key, made: buffer(new Float32Array(lines)), count: lines.length / 3 };
    }
    drawLines(whole, ground.made, ground.count, gl.LINES, isDark.matches ? [0.62, 0.66, 0.72, 1] : [0.42, 0.45, 0.5, 1]);
  }
  const isDark = window.matchMedia("(prefers-color-scheme: dark)");
  isDark.addEventListener("change", draw);

  /* Who is nearest to a place of the canvas. */
  function pick(event) {
    const box = canvas.getBoundingClientRect(), whole = Solid.product(lens(), lookout());
    let best = [40, -1];
    loaded.people.forEach((bodies, place) => {
      const one = bodies.final || bodies.init;
      if (place !== everyone[current].place && !shown.others) return;
      for (const joint of one.joints) {
        const at = [0, 1, 3].map(k => whole[k] * joint[0] + whole[4 + k] * joint[1] + whole[8 + k] * joint[2] + whole[12 + k]);
        if (at[2] <= 0) continue;
        const x = (at[0] / at[2] + 1) / 2 * box.width, y = (1 - at[1] / at[2]) / 2 * box.height;
        const away = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
        if (away < best[0]) best = [away, place];
      }
    });
    if (best[1] < 0 || best[1] === everyone[current].place) return;
    const name = eye.name;
    choose(everyone.findIndex(one => one.scene === loaded.scene && one.place === best[1]), true);
    eye.name = name;
  }

  let playing = 0;
  function play() {
    const isOn = playing === 0;
    $("play").setAttribute("aria-pressed", String(isOn));
    if (!isOn) { clearInterval(playing); playing = 0; return; }
    playing = setInterval(() => {
      const next = (everyone[current].at + 1) % scenes.length;
      choose(everyone.findIndex(one => one.at === next), true);
    }, 120);
  }

  const held = new Map();
  let moved = 0;
  const middle = () => { const all = [...held.values()]; return [0, 1].map(k => all.reduce((sum, at) => sum + at[k], 0) / all.length); };
  const spread = () => { const [a, b] = [...held.values()]; return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0; };
  function slide(dx, dy) {
    const scene = loaded.scene, k = Math.min(canvas.clientWidth / scene.size[0], canvas.clientHeight / scene.size[1]);
    const scale = eye.distance / (scene.focal[1] * k);
    eye.pan = [eye.pan[0] - dx * scale, eye.pan[1] + dy * scale];
  }
  function orbit(dx, dy) {
    eye.turn -= dx * 0.01;
    eye.tilt = Math.max(-1.57, Math.min(1.57, eye.tilt + dy * 0.01));
    eye.name = "";
  }
  function zoom(by) { eye.distance = Math.max(0.3, Math.min(400, eye.distance * by)); eye.name = ""; }
  canvas.addEventListener("pointerdown", event => {
    held.set(event.pointerId, [event.clientX, event.clientY]);
    if (held.size === 1) moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (!held.has(event.pointerId)) return;
    const before = middle(), apart = spread();
    held.set(event.pointerId, [event.clientX, event.clientY]);
    const after = middle(), dx = after[0] - before[0], dy = after[1] - before[1];
    moved += Math.abs(dx) + Math.abs(dy);
    if (held.size > 1) {
      slide(dx, dy);
      if (apart && spread()) zoom(apart / spread());
    } else if (event.shiftKey || event.buttons === 2 || event.buttons === 4) slide(dx, dy);
    else orbit(dx, dy);
    draw();
  });
  const release = event => { held.delete(event.pointerId); };
  canvas.addEventListener("pointerup", event => { release(event); if (moved < 4) pick(event); });
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.001)); draw(); }, { passive: false });

  everyone.forEach((one, k) => $("who").add(new Option(label(one), k)));
  $("who").addEventListener("change", () => choose(Number($("who").value)));
  $("previous").addEventListener("click", () => choose(current - 1));
  $("next").addEventListener("click", () => choose(current + 1));
  $("play").addEventListener("click", play);
  $("play").hidden = scenes.length < 2;
  const toggles = [...document.querySelectorAll("[data-toggle]")], views = [...document.querySelectorAll("[data-view]")];
  for (const button of toggles) button.addEventListener("click", () => {
    const name = button.dataset.toggle;
    shown[name] = !shown[name];
    button.setAttribute("aria-pressed", String(shown[name]));
    draw();
  });
  for (const button of views) button.addEventListener("click", () => settle(button.dataset.view));
  const letters = { c: "camera", v: "turned", s: "side", t: "top" };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const onCanvas = event.target === canvas, key = event.key;
    const turn = { ArrowLeft: [12, 0], ArrowRight: [-12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[key];
    if (onCanvas && turn) { orbit(...turn); draw(); }
    else if (key === "+" || key === "-") { zoom(key === "+" ? 0.87 : 1.15); draw(); }
    else if (key === "ArrowLeft" || key === "j") choose(current - 1);
    else if (key === "ArrowRight" || key === "k") choose(current + 1);
    else if (letters[key]) settle(letters[key]);
    else if (toggles[Number(key) - 1]) toggles[Number(key) - 1].click();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => { if (eye.name && eye.name !== "camera") { Solid.fitCanvas(canvas); settle(eye.name); } else draw(); }).observe(canvas);
  function fromAddress() {
    const wanted = Number(location.hash.slice(1)), at = everyone.findIndex(one => one.person.number === wanted);
    if (at >= 0 && at !== current) choose(at); else if (current < 0) choose(0);
  }
  window.addEventListener("hashchange", fromAddress);
  Solid.fitCanvas(canvas);
  fromAddress();
})();

/* What draws bodies in WebGL 2, for the 3D view and for the demo of examples/web. */
const Solid = (function () {
  "use strict";
  /* Matrices are column by column. */
  function product(a, b) {
    const c = new Float32Array(16);
    for (let i = 0; i < 4; ++i) for (let j = 0; j < 4; ++j) for (let k = 0; k < 4; ++k) c[4 * j + i] += a[4 * k + i] * b[4 * j + k];
    return c;
  }
  function compile(gl, vertex, fragment) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "point");
    gl.bindAttribLocation(program, 1, "normal");
    gl.linkProgram(program);
    const place = {}, count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
    for (let k = 0; k < count; ++k) {
      const name = gl.getActiveUniform(program, k).name;
      place[name] = gl.getUniformLocation(program, name);
    }
    return { program, place };
  }
  const makePrograms = gl => ({
    body: compile(gl,
      "in vec3 point, normal; uniform mat4 view, whole; out vec3 n; void main() { n = mat3(view) * normal; gl_Position = whole * vec4(point, 1.0); }",
      `in vec3 n; uniform vec3 colour; uniform float alpha; out vec4 pixel;
       void main() { vec3 m = normalize(n); if (m.z < 0.0) m = -m;
         float light = 0.30 + 0.16 * m.y + 0.60 * max(dot(m, normalize(vec3(-0.4, 0.6, 0.7))), 0.0) + 0.15 * max(dot(m, normalize(vec3(0.8, 0.0, 0.6))), 0.0);
         pixel = vec4(colour * light + 0.08 * pow(1.0 - m.z, 3.0), alpha); }`),
    line: compile(gl,
      "in vec3 point; uniform mat4 whole; uniform float size; void main() { gl_Position = whole * vec4(point, 1.0); gl_PointSize = size; }",
      "uniform vec4 colour; out vec4 pixel; void main() { pixel = colour; }"),
    // Normals hold the place in the picture.
    photo: compile(gl,
      "in vec3 point; in vec3 normal; uniform mat4 whole; out vec2 at; void main() { at = normal.xy; gl_Position = whole * vec4(point, 1.0); }",
      "in vec2 at; uniform sampler2D photo; out vec4 pixel; void main() { pixel = vec4(texture(photo, at).rgb, 1.0); }"),
  });
  function findNormals(points, faces) {
    const normals = new Float32Array(points.length);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = points[b] - points[a], uy = points[b + 1] - points[a + 1], uz = points[b + 2] - points[a + 2];
      const vx = points[c] - points[a], vy = points[c + 1] - points[a + 1], vz = points[c + 2] - points[a + 2];
      const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
      for (const at of [a, b, c]) { normals[at] += nx; normals[at + 1] += ny; normals[at + 2] += nz; }
    }
    return normals;
  }
  function makeTexture(gl, picture) {
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }
  /* The triangles of a body whose attributes and uniforms are set; of a transparent one only the nearest surface is seen. */
  function drawSurface(gl, program, count, alpha) {
    gl.uniform1f(program.place.alpha, alpha);
    if (alpha < 1) {
      gl.colorMask(false, false, false, false);
      gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
      gl.colorMask(true, true, true, true);
      gl.depthFunc(gl.EQUAL);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    }
    gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
    gl.disable(gl.BLEND);
    gl.depthFunc(gl.LESS);
  }
  function fitCanvas(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  }
  return { product, makePrograms, findNormals, makeTexture, drawSurface, fitCanvas };
})();

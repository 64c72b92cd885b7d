// Draws the structures of a page as balls, sticks and cell edges; turned by dragging, touch and arrow keys.
"use strict";
document.querySelectorAll("canvas.structure").forEach((canvas) => {
  const { points, colours, radii, bonds, edges } = JSON.parse(canvas.dataset.structure);
  const context = canvas.getContext("2d");
  const reach = Math.max(...radii.map((radius, i) => Math.hypot(...points[i]) + radius), 1);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let turn = edges.length ? [[1, 0, 0], [0, 0, 1], [0, -1, 0]] : [[1, 0, 0], [0, 1, 0], [0, 0, 1]]; // of cells, z is up

  const product = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));
  const about = (axis, angle) => {
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    return axis === "x" ? [[1, 0, 0], [0, c, -s], [0, s, c]] : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  };
  const rotate = (right, down) => {
    turn = product(about("y", right), product(about("x", down), turn));
    draw();
  };

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const scale = (0.46 * Math.min(width, height)) / reach;
    const turned = points.map((point) => {
      const [x, y, z] = turn.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2]);
      return [width / 2 + scale * x, height / 2 - scale * y, z];
    });
    const line = (i, j, colour, thickness) => {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(turned[i][0], turned[i][1]);
      context.lineTo(turned[j][0], turned[j][1]);
      context.stroke();
    };
    edges.forEach(([i, j]) => line(i, j, dark.matches ? "#6a7079" : "#a9b0b8", 1));
    const parts = bonds.map(([i, j]) => ({ depth: (turned[i][2] + turned[j][2]) / 2 - 0.01, bond: [i, j] }));
    colours.forEach((_, i) => parts.push({ depth: turned[i][2], atom: i }));
    parts.sort((a, b) => a.depth - b.depth);
    parts.forEach(({ atom, bond }) => (bond ? line(...bond, "#8a9098", Math.max(0.16 * scale, 1)) : ball(atom)));

    function ball(i) {
      const [x, y] = turned[i];
      const radius = Math.max(radii[i] * scale, 1.5);
      const shade = context.createRadialGradient(x - radius / 3, y - radius / 3, radius / 10, x, y, radius);
      shade.addColorStop(0, "#ffffff");
      shade.addColorStop(0.35, colours[i]);
      shade.addColorStop(1, colours[i]);
      context.fillStyle = shade;
      context.strokeStyle = "rgba(0, 0, 0, 0.45)";
      context.lineWidth = 0.8;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    rotate((event.clientX - last[0]) / 100, (event.clientY - last[1]) / 100);
    last = [event.clientX, event.clientY];
  });
  ["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, () => { last = null; }));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (step) { rotate(...step); event.preventDefault(); }
  });
  dark.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  rotate(-0.5, 0.35);
});

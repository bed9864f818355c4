// Zoom and pan of the photo with all that lies on it, and the place that is pointed at, by mouse, finger or key.

const MOST = 12; // times
const STEP = 0.025; // of the photo's side: an arrow key
const STILL = 4; // pixels that a press may move and stay a press

/**
 * Make `stage` zoomable; its parts follow the properties `--zoom`, `--dx` and `--dy`.
 *
 * `pointed(x, y, byKey)` is called with a place in shares of the photo's sides, and without one as the pointer leaves.
 * Returns what buttons need: `by(factor)` and `reset()`.
 */
export function zoomable(stage, pointed) {
  let zoom = 1;
  let corner = [0, 0]; // of the photo, in shares of the stage
  let cursor = [0.5, 0.5]; // of the keyboard
  const pressed = new Map(); // pointers that are down: id → place in the window
  let moved = 0;
  const planes = () => [...stage.querySelectorAll(".plane")].filter((plane) => plane.offsetParent);

  function move(next, place) {
    zoom = Math.min(Math.max(next, 1), MOST);
    corner = place.map((share) => Math.min(Math.max(share, 1 - zoom), 0));
    stage.style.setProperty("--zoom", zoom);
    stage.style.setProperty("--dx", corner[0]);
    stage.style.setProperty("--dy", corner[1]);
    stage.classList.toggle("zoomed", zoom > 1);
  }
  // The place under the pointer stays under it.
  function zoomAt(factor, [x, y]) {
    const next = Math.min(Math.max(zoom * factor, 1), MOST);
    move(next, [corner[0] + x * (zoom - next), corner[1] + y * (zoom - next)]);
  }
  function placeOf(event) {
    const plane = event.target.closest?.(".pane")?.querySelector(".plane") ?? planes()[0];
    const box = plane.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  const inside = (place) => place.every((share) => share >= 0 && share < 1);
  function show(place, byKey = false) {
    stage.classList.toggle("by-key", byKey);
    if (!place || !inside(place)) return pointed();
    cursor = place;
    stage.style.setProperty("--cursor-x", place[0]);
    stage.style.setProperty("--cursor-y", place[1]);
    return pointed(place[0], place[1], byKey);
  }
  const spread = () => {
    const [[ax, ay], [bx, by]] = [...pressed.values()];
    return Math.hypot(ax - bx, ay - by);
  };

  stage.addEventListener("pointerdown", (event) => {
    pressed.set(event.pointerId, [event.clientX, event.clientY]);
    moved = 0;
    show(placeOf(event));
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pressed.get(event.pointerId);
    if (before) {
      const [width, height] = [planes()[0].offsetWidth, planes()[0].offsetHeight];
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      const was = pressed.size === 2 ? spread() : 0;
      pressed.set(event.pointerId, [event.clientX, event.clientY]);
      if (moved > STILL) stage.classList.remove("peek");
      if (was) zoomAt(spread() / was, placeOf(event));
      else if (zoom > 1) {
        stage.setPointerCapture(event.pointerId);
        move(zoom, [corner[0] + dx / width, corner[1] + dy / height]);
      }
    }
    show(placeOf(event));
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    stage.addEventListener(name, (event) => {
      pressed.delete(event.pointerId);
      if (name === "pointerleave" && event.pointerType === "mouse") show(null);
    });
  }
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 200), placeOf(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => (zoom > 1 ? move(1, [0, 0]) : zoomAt(2.5, placeOf(event))));
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ways[event.key];
    if (way) {
      const place = cursor.map((share, axis) => Math.min(Math.max(share + (way[axis] * STEP) / zoom, 0), 0.9999));
      move(zoom, place.map((share) => 0.5 - zoom * share));
      show(place, true);
    } else if (event.key === "+" || event.key === "=") zoomAt(1.5, cursor);
    else if (event.key === "-") zoomAt(1 / 1.5, cursor);
    else if (event.key === "0") move(1, [0, 0]);
    else return;
    event.preventDefault();
  });
  stage.addEventListener("focus", () => stage.matches(":focus-visible") && show(cursor, true));
  stage.addEventListener("blur", () => show(null));
  return {
    by: (factor) => zoomAt(factor, [0.5, 0.5].map((half, axis) => (half - corner[axis]) / zoom)),
    reset: () => move(1, [0, 0]),
  };
}

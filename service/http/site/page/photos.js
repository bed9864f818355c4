// The photos: asking the service about each, a few at a time, and what becomes of its answers.

import { announce, draw, drawStrip, showWait } from "./answer.js";
import * as feedback from "./feedback.js";
import { showValue } from "./layers.js";
import { adoptAnswering, isKnown, known, options, queryOf, unknownWords } from "./model.js";
import { $, photos, state } from "./page.js";
import { call, Problem, similar } from "./requests.js";
import { prepared } from "./shrink.js";
import { COVERAGE } from "./verdict.js";
import { zoomable } from "./zoom.js";

export const LAYER_SIDE = 896; // longer side of the requested maps, pixels: enough for the screen, cheap to send
export const MARKS = 5; // most field marks of a photo
const AT_ONCE = 2; // photos under way at the same time

export const zoom = zoomable($("stage"), showValue);

let running = 0;

export async function explainRequest(photo, extra, accept) {
  const query = queryOf(photo.question, extra);
  photo.sent ??= prepared(photo.file, photo.url);
  const { file, words } = await photo.sent;
  photo.words = words;
  const body = new FormData();
  body.append("file", file, photo.file.name || "pasted");
  const { signal } = photo.controller;
  signal.throwIfAborted();
  return call(`explain?${query}`, { method: "POST", body, signal, waiting: (seconds) => showWait(photo, seconds) }, accept);
}

async function explainInFull(photo) {
  const marks = known.hasMarks ? { marks: MARKS, mark_maps: true } : {};
  const sets = known.hasSets ? { coverage: COVERAGE } : {};
  try {
    return await explainRequest(photo, { top_k: 5, size: LAYER_SIDE, ...marks, ...sets }, "application/json");
  } catch (error) {
    const code = error.document?.code;
    if (!(marks.marks && code === "no_marks") && !(sets.coverage && code === "no_sets")) throw error;
    if (code === "no_marks") known.hasMarks = false; // another version of the model answers now
    else known.hasSets = false;
    return explainInFull(photo);
  }
}

export function add(files) {
  const first = photos.length;
  for (const file of files) {
    const photo = { file, url: URL.createObjectURL(file), question: { target: "rank:1", versus: "" }, waiting: file.size > 0 };
    const name = file.name ? `“${file.name}”` : "It";
    if (!file.size) photo.problem = new Problem({ title: "The file is empty", detail: `${name} holds no bytes, so there is no photo in it.` }, 400);
    photos.push(photo);
  }
  if (photos.length === first) return;
  document.body.classList.add("has-photos");
  select(photos[first]);
  drawStrip();
  next();
}

export function remove(photo) {
  const place = photos.indexOf(photo);
  photos.splice(place, 1);
  photo.waiting = false;
  photo.controller?.abort();
  for (const url of new Set([photo.url, photo.shown])) if (url) URL.revokeObjectURL(url);
  const name = photo.file.name || "The photo";
  if (photos.length) {
    select(photos[Math.min(place, photos.length - 1)]);
    drawStrip();
    ($("strip").children[photos.indexOf(state.current)]?.firstChild ?? $("remove")).focus();
  } else {
    state.current = null;
    document.body.classList.remove("has-photos");
    $("files").focus();
    for (const id of ["result", "tools", "strip", "problem"]) $(id).hidden = true;
  }
  $("live").textContent = `${name} is removed.`;
}

export function next() {
  while (running < AT_ONCE) {
    const photo = photos.find((one) => one === state.current && one.waiting) || photos.find((one) => one.waiting);
    if (!photo) return;
    run(photo);
  }
}

export async function run(photo) {
  photo.waiting = false;
  photo.controller?.abort();
  const controller = new AbortController();
  photo.controller = controller;
  photo.busy = true;
  photo.problem = photo.refused = null;
  running += 1;
  if (photo === state.current) draw();
  try {
    await known.loaded;
    controller.signal.throwIfAborted(); // another question came meanwhile, and its run asks for both
    const asked = { ...photo.question };
    const said = options();
    const response = await explainInFull(photo);
    const result = await response.json();
    controller.signal.throwIfAborted();
    photo.result = result;
    photo.timing = response.headers.get("Server-Timing") || "";
    photo.answered = asked;
    photo.options = said;
    photo.typed = null;
    if (photo.isForeign) showServersView(photo);
    await adoptAnswering(photo.result.model);
  } catch (error) {
    if (error.name !== "AbortError") fail(photo, error, controller);
  } finally {
    running -= 1;
    if (photo.controller === controller) photo.busy = false;
    if (photo === state.current) {
      draw();
      announce(photo);
    }
    drawStrip();
    next();
  }
}

// A question that cannot be answered leaves the photo the answer that it has.
function fail(photo, error, controller) {
  if (photo.controller !== controller) return;
  if (photo.result && error.status === 422) {
    photo.refused = refusal(error, photo.typed);
    photo.question = { ...photo.answered };
  } else photo.problem = error;
}

function refusal(error, typed) {
  if (error.document?.code !== "unknown_class" || !typed) return error.message + similar(error);
  const unknown = [typed.target, typed.versus].filter((word) => word && !isKnown(word));
  return unknownWords(unknown) + similar(error);
}

export function ask(question, typed = null) {
  if (!state.current) return;
  if (!state.current.file.size) return;
  state.current.question = { ...state.current.question, ...question };
  state.current.typed = typed;
  if (question.target) state.current.pinned = state.pointed = null;
  state.current.waiting = true;
  run(state.current);
}

// All photos are asked about anew: another model, or another prior.
export function askAll() {
  $("together").hidden = true;
  for (const photo of photos) {
    if (!photo.file.size) continue;
    photo.question = { target: "rank:1", versus: "" };
    photo.typed = photo.pinned = null;
    photo.waiting = true;
  }
  if (state.current?.waiting) run(state.current);
  next();
}

export function select(photo) {
  state.current = photo;
  state.pointed = null;
  feedback.close();
  showPhoto(photo);
  draw();
  const changed = photo.result && JSON.stringify(photo.options) !== JSON.stringify(options());
  if (changed && !photo.busy) ask({}); // colours or layer were changed while another was shown
}

async function showPhoto(photo) {
  const image = $("photo");
  image.alt = photo.file.name ? `Your photo ${photo.file.name}` : "Your photo";
  image.onload = () => fitStage(image.naturalWidth, image.naturalHeight);
  image.onerror = () => {
    photo.isForeign = true;
    showServersView(photo);
  };
  image.src = $("photo-beside").src = photo.shown || photo.url;
  zoom.reset();
}

// Small photos are enlarged, tall ones end above the fold.
function fitStage(width, height) {
  $("stage").style.setProperty("--ratio", width / height);
}

// Browsers cannot show every format the service reads (TIFF, HEIC): then the service's own picture stands in.
export async function showServersView(photo) {
  if (photo.shown || photo.problem || !photo.file.size) return;
  photo.shown = photo.url;
  try {
    const request = { ...photo, question: { target: "rank:1" }, controller: new AbortController() };
    const response = await explainRequest(request, { view: "overlay", opacity: 0, size: LAYER_SIDE }, "image/webp");
    photo.shown = URL.createObjectURL(await response.blob());
    if (photo === state.current) $("photo").src = $("photo-beside").src = photo.shown;
    drawStrip();
  } catch {
    photo.shown = null; // the answer describes the error; the next one asks again
  }
}

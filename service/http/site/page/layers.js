// What lies on the photo: the map of a view or of a mark, its caption, its scale, and the value under the pointer.

import { evidenceWords } from "./marks.js";
import { number, percent } from "./numbers.js";
import { $, state } from "./page.js";
import { inTwoColours, valueAt, valuesOf } from "./values.js";

export const view = () => document.querySelector("input[name=view]:checked").value;

let page;

/**
 * Make the maps work.
 *
 * `request(photo, extra)` asks the service about a photo, and `fail(error)` shows why it did not answer.
 */
export function connect(given) {
  page = given;
}

// The mark whose map is shown, with its map; null for none.
function shownMark({ result, pinned }) {
  const name = state.pointed ?? pinned;
  const index = result?.marks?.findIndex((mark) => mark.name === name) ?? -1;
  return index < 0 ? null : { ...result.marks[index], map: result.mark_maps[index] };
}

/** Show the map of the view, or of the mark that is pointed at. */
export function drawLayer() {
  const { current } = state;
  if (!current) return;
  const { result } = current;
  const versus = result?.versus;
  for (const name of ["gradcam_versus", "both", "beside"]) $(`view-${name}`).hidden = !versus;
  if (!versus && document.querySelector(`#view-${view()}`)?.hidden) document.querySelector("input[value=gradcam]").checked = true;
  const attentionButton = document.querySelector("input[value=attention]");
  attentionButton.disabled = Boolean(result) && !result.attention;
  const shown = view();
  const mark = shownMark(current);
  const maps = mark ? [mark.map].filter(Boolean) : mapsOf(current, shown);
  for (const one of [...$("marks").querySelectorAll("button"), ...$("places").children]) {
    one.classList.toggle("shown", one.dataset.mark === mark?.name);
    if (one.type) one.setAttribute("aria-pressed", String(one.dataset.mark === current.pinned));
  }
  const beside = shown === "beside" && !mark && maps.length === 2;
  $("stage").classList.toggle("beside", beside);
  $("second").hidden = $("tag").hidden = !beside;
  const both = shown === "both" && !mark;
  const map = both ? result.both : maps[0];
  $("layer").hidden = !map;
  $("scale").hidden = !map || beside;
  if (map) {
    $("layer").src = map.png;
    showOpacity();
    $("scale-min").textContent = both ? `${number(map.most)} for ${versus.label}` : number(map.min);
    $("scale-max").textContent = both ? `${number(map.most)} for ${result.target.label}` : number(map.max);
    $("ramp").dataset.map = both ? "both" : current.options.colormap;
  }
  if (beside) {
    $("layer-beside").src = maps[1].png;
    $("tag").textContent = sideOf(result.target, maps[0]);
    $("tag-beside").textContent = sideOf(versus, maps[1]);
  }
  $("caption").textContent = mark ? describeMark(mark) : result ? describe(shown, result) : "";
  const note = mark || both || beside ? null : map?.note; // the caption says what a mark's map does not show
  $("note").textContent = note ? explainNote(note, shown, result) : "";
  $("note").hidden = !note;
}

const sideOf = ({ label, probability }, map) => `${label}, ${percent(probability)}. Evidence up to ${number(map.max)}.`;

// The maps of a view. What a view needs besides the answer is fetched or computed when it is first shown.
function mapsOf(photo, shown) {
  const { result } = photo;
  if (!result || shown === "photo") return [];
  if (shown === "both") {
    if (!result.both) later(photo, async () => { result.both = await inTwoColours(result.gradcam, result.gradcam_versus, photo.options.colormap); });
    return [result.gradcam, result.gradcam_versus];
  }
  if (shown === "beside") {
    if (!result.beside) later(photo, async () => { result.beside = await ownMaps(photo, result); });
    return result.beside ?? [];
  }
  return result[shown] ? [result[shown]] : [];
}

async function later(photo, work) {
  if (photo.working) return;
  photo.working = true;
  $("busy").hidden = false;
  try {
    await work();
  } catch (error) {
    page.fail(error);
    document.querySelector("input[value=gradcam]").checked = true;
  } finally {
    photo.working = false;
    if (photo === state.current) {
      $("busy").hidden = !photo.busy;
      drawLayer();
    }
  }
}

// Each class's own map: what speaks for both of two is in neither contrast.
async function ownMaps(photo, { target, versus }) {
  const maps = [];
  for (const { label } of [target, versus]) {
    const asked = { ...photo, question: { target: label, versus: "" } };
    const response = await page.request(asked, { top_k: 1 });
    maps.push((await response.json()).gradcam);
  }
  return maps;
}

let asking = 0;
/** Show the value under the pointer in words; it is spoken only to who points by key. */
export async function showValue(x, y, byKey) {
  const turn = (asking += 1);
  const photo = state.current;
  const { result } = photo ?? {};
  if (x === undefined || !result) {
    $("value").textContent = "";
    return;
  }
  const mark = shownMark(photo);
  const shown = view();
  const maps = mark ? [mark.map].filter(Boolean) : mapsOf(photo, shown);
  const read = await Promise.all(maps.map((map) => valuesOf(map, photo.options.colormap)));
  if (turn !== asking || photo !== state.current) return;
  const values = read.map((one) => valueAt(one, x, y));
  $("value").textContent = valueWords(values, shown, mark, result);
  if (byKey) $("live").textContent = $("value").textContent;
}

function valueWords(values, shown, mark, { target, versus }) {
  if (!values.length) return "";
  if (values.some(Number.isNaN)) return "Here: beyond what the model looks at";
  if (mark || values.length === 1) return `Here: ${number(values[0])}`;
  const [one, other] = values;
  if (shown === "beside") return `Here: ${number(one)} for ${target.label}, ${number(other)} for ${versus.label}`;
  if (one === other) return "Here: nothing for either";
  return one > other ? `Here: ${number(one - other)} for ${target.label}` : `Here: ${number(other - one)} for ${versus.label}`;
}

/** Let the map cover as much of the photo as the slider says. */
export function showOpacity() {
  const share = $("opacity").value / 100;
  const shown = view() === "both" ? share ** (1 / 3) : share; // the two colours fade by themselves where there is little
  $("layer").style.opacity = $("layer-beside").style.opacity = shown;
}

function describeMark(mark) {
  const evidence = evidenceWords(mark);
  return `Where “${mark.name}” is read${evidence ? `: ${evidence}` : ""}`;
}

function describe(shown, { target, versus }) {
  if (shown === "photo") return "Your photo";
  if (shown === "attention") return "Where the network looks before it decides";
  if (shown === "both") return `Orange: what speaks for ${target.label} rather than ${versus.label}; blue: the reverse`;
  if (shown === "beside") return "What speaks for each of the two classes, in its own scale";
  if (!versus) return `What speaks for ${target.label} (${percent(target.probability)})`;
  const [this_, that] = shown === "gradcam" ? [target, versus] : [versus, target];
  return `What speaks for ${this_.label} rather than ${that.label}`;
}

function explainNote(note, shown, { target, versus }) {
  if (note.startsWith("flat")) return "The attention is flat: the network looks everywhere alike, so the colours mean little.";
  const what = versus ? (shown === "gradcam" ? `${target.label} rather than ${versus.label}` : `${versus.label} rather than ${target.label}`) : target.label;
  return `No positive evidence: nothing in this picture speaks for ${what}.`;
}

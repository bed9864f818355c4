// The answer of the photo that is shown: class, bars, words and marks; and the strip of all photos.

import * as feedback from "./feedback.js";
import { drawLayer, view } from "./layers.js";
import { entries, missingWords, places, sentence } from "./marks.js";
import { known } from "./model.js";
import { percent } from "./numbers.js";
import { $, element, photos, showProblem, state } from "./page.js";
import { kicker, shortList, twoToContrast } from "./verdict.js";

let acts;

/**
 * Make the answer work.
 *
 * `ask(question)` asks about the photo that is shown, `select(photo)` shows another, `remove(photo)` forgets it, and
 * `showServersView(photo)` shows a photo that the browser cannot.
 */
export function connect(given) {
  acts = given;
}

let drawn = null;
export function draw() {
  const { result, problem, busy, retry } = state.current;
  $("tools").hidden = false;
  $("individual").hidden = photos.length < 2;
  if (state.current !== drawn) $("together").hidden = $("command-box").hidden = true; // they are of what was shown before
  drawn = state.current;
  for (const id of ["curl", "csv", "json"]) $(id).disabled = id === "curl" ? !result : !photos.some((one) => one.result || one.problem);
  showWait(state.current, busy ? retry : 0);
  $("result").hidden = !result && Boolean(problem);
  $("busy").hidden = !busy;
  $("result").setAttribute("aria-busy", String(Boolean(busy)));
  if (problem) showProblem(problem);
  else $("problem").hidden = true;
  drawAnswer(result);
  $("photo-words").textContent = (result && state.current.words) || "";
  $("photo-words").hidden = !$("photo-words").textContent;
  drawMarks(result);
  drawLayer();
  feedback.draw(state.current, known.collectsFeedback);
}

function drawAnswer(result) {
  for (const id of ["save", "clear"]) $(id).disabled = !result;
  if (!result) {
    $("kicker").textContent = "Looking…";
    $("kicker").classList.remove("unlike");
    $("short").hidden = true;
    $("label").textContent = "…";
    $("sure").textContent = $("facts").textContent = "";
    $("bars").replaceChildren();
    return;
  }
  const best = result.predictions[0];
  $("kicker").textContent = kicker(result, known.labels.length);
  $("kicker").classList.toggle("unlike", result.known === false);
  $("label").textContent = best.label;
  $("sure").textContent = `${percent(best.probability)} ${result.known === false ? "among these classes" : "sure"}`;
  $("short-words").textContent = shortList(result);
  $("short").hidden = !$("short-words").textContent;
  const two = twoToContrast(result);
  $("short-contrast").hidden = !two;
  $("short-contrast").textContent = two ? `Why ${two[0]} and not ${two[1]}?` : "";
  $("bars").replaceChildren(...result.predictions.map((one) => bar(one, result)));
  const { typed, refused } = state.current; // a word that is not understood stays, to be corrected
  $("target").value = typed ? typed.target : result.target.label;
  $("versus").value = typed ? typed.versus : result.versus?.label ?? "";
  $("versus-note").textContent = refused ?? "";
  $("versus-note").hidden = !refused;
  for (const id of ["target", "versus"]) $(id).setAttribute("aria-invalid", String(Boolean(refused && typed?.[id])));
  $("versus").placeholder = rival(result, result.target.label);
  $("clear").hidden = !result.versus;
  const time = state.current.timing.match(/total;dur=([\d.]+)/) || state.current.timing.match(/infer;dur=([\d.]+)/);
  $("facts").textContent =
    `${state.current.file.name ? `${state.current.file.name} · ` : ""}${result.width} × ${result.height} pixels · ` +
    `model ${result.model.name} version ${result.model.version} · layer ${result.layer}${result.prior ? ` · ${result.prior}` : ""}` +
    (time ? ` · ${Math.round(Number(time[1]))} ms in the ${state.current.timing.includes("total;") ? "service" : "model"}` : "");
}

function drawMarks(result) {
  const marks = result?.marks;
  $("marks-box").hidden = !marks;
  $("save-marks").hidden = !marks;
  $("words").textContent = marks ? sentence(result) : "";
  $("words").hidden = !marks;
  $("missing").textContent = marks ? missingWords(result) : "";
  $("missing").hidden = !$("missing").textContent;
  if (!marks?.some((mark) => mark.name === state.pointed)) state.pointed = null;
  const focused = document.activeElement?.dataset?.mark;
  $("marks-title").textContent = result?.versus
    ? `What tells ${result.target.label} from ${result.versus.label}`
    : `Field marks of ${result?.target.label}`;
  $("marks").replaceChildren(...(marks ? entries(result, state.current.pinned, element, { point, pin }) : []));
  $("places").replaceChildren(...(marks ? places(result, element) : []));
  // The list is drawn anew; keep the keyboard where it was.
  if (focused) [...$("marks").querySelectorAll("button")].find((one) => one.dataset.mark === focused)?.focus();
}

function point(name, on) {
  if (on) state.pointed = name;
  else if (state.pointed === name) state.pointed = null;
  drawLayer();
}

function pin(name) {
  state.current.pinned = state.current.pinned === name ? null : name;
  if (state.current.pinned === null) state.pointed = null;
  drawLayer();
  $("live").textContent = `${$("caption").textContent}.`;
}

// The likeliest other class: the one most easily confused with it.
export function rival(result, label) {
  return result.predictions.find((one) => one.label !== label)?.label ?? "";
}

function bar(one, result) {
  const filled = element("i");
  filled.style.transform = `scaleX(${one.probability})`;
  const share = element("span", { className: "share", textContent: percent(one.probability) });
  const button = element("button", { type: "button" }, filled, element("span", { textContent: one.label }), share);
  button.setAttribute("aria-pressed", String(!result.versus && result.target.index === one.index));
  button.addEventListener("click", () => {
    if (view() !== "gradcam") document.querySelector("input[value=gradcam]").checked = true;
    acts.ask({ target: one.label, versus: "" }); // its number may be another class of the next model
    // The bars are drawn anew; keep the keyboard where it was.
    requestAnimationFrame(() => $("bars").children[result.predictions.indexOf(one)]?.firstChild.focus());
  });
  return element("li", {}, button);
}

export function drawStrip() {
  $("strip").hidden = photos.length < 2;
  if (photos.length < 2) return;
  $("strip").replaceChildren(...photos.map((photo) => {
    const picture = element("img", { src: photo.shown || photo.url, alt: "" });
    picture.onerror = () => {
      picture.replaceWith(element("div", { className: "blank" }));
      if (photo.result) acts.showServersView(photo);
    };
    const best = photo.result?.predictions[0];
    const unlike = photo.result?.known === false;
    const text = photo.problem ? "Problem" : unlike ? "Like none" : best ? `${best.label} ${percent(best.probability)}` : "…";
    const label = element("span", { textContent: text, className: photo.problem ? "bad" : "" });
    const name = element("span", { textContent: photo.file.name, className: "file" });
    const button = element("button", { type: "button" }, picture, label, name);
    button.setAttribute("aria-current", String(photo === state.current));
    button.addEventListener("click", () => {
      acts.select(photo);
      drawStrip();
      $("strip").children[photos.indexOf(photo)].firstChild.focus();
    });
    button.addEventListener("keydown", (event) => event.key === "Delete" && acts.remove(photo));
    return element("li", {}, button);
  }));
}

export function showWait(photo, seconds) {
  const first = !photo.retry && seconds;
  photo.retry = seconds;
  if (photo !== state.current) return;
  $("wait").hidden = !seconds;
  $("wait").textContent = seconds ? `The service is busy; trying again in ${seconds} s.` : "";
  if (first) $("live").textContent = $("wait").textContent;
}

export function announce(photo) {
  const { result, problem, refused } = photo;
  if (!result || problem || refused) return; // an alert speaks for itself
  if (!result) return;
  const best = result.predictions[0];
  const unlike = result.known === false ? $("kicker").textContent : "";
  const words = [unlike, `${best.label}, ${percent(best.probability)}.`, $("short-words").textContent, $("words").textContent, `${$("caption").textContent}.`];
  $("live").textContent = [...words, $("note").textContent].filter(Boolean).join(" ");
}

// The model that answers, what it can do, and what the controls ask of it.

import { $, showProblem } from "./page.js";
import { call, Problem } from "./requests.js";

const LOADING = 1000; // milliseconds until a service without a model is asked again
const MOST_ASKED = 60; // times

/**
 * What is known of the service: its `models`, as it lists them, the `model` that answers (the one picked, else the
 * service's choice) with its `labels`, whether it names field marks and can give a short list of classes, the only
 * classes that are possible (none: all are), and whether the service collects what people say of its answers.
 *
 * `loaded` settles once the model is known; `adopted()` is called for every model that is shown.
 */
export const known = {
  models: [],
  model: null,
  labels: [],
  hasMarks: false,
  hasSets: false,
  among: [],
  collectsFeedback: false,
  loaded: null,
  adopted: () => {},
};

export const isKnown = (word) => known.labels.some((label) => label.toLowerCase() === word.toLowerCase());

export const unknownWords = (words) => `No class is called ${words.map((word) => `“${word}”`).join(" or ")}.`;

// What the controls say beside the question; an empty one is left to the service.
export function options() {
  const [name, version] = $("model-pick").value ? JSON.parse($("model-pick").value) : [];
  const maps = { colormap: $("colormap").value, layer: $("layer-pick").value };
  const said = { ...maps, model: name, version, prior: $("prior").value, among: known.among };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value?.length));
}

export function queryOf(question, extra) {
  const query = new URLSearchParams();
  const given = { ...question, ...options(), ...extra };
  for (const [name, value] of Object.entries(given)) for (const one of [value].flat()) if (one !== "") query.append(name, one);
  return query;
}

/** Ask what the service can do, again and again while it has no model yet; the next answer about a photo asks anew. */
export async function loadModel() {
  try {
    let answer = { models: [] };
    for (let asked = 0; !answer.models.length && asked < MOST_ASKED; asked += 1) {
      if (asked) await new Promise((done) => setTimeout(done, LOADING));
      answer = await (await call("models", {}, "application/json")).json();
    }
    if (!answer.models.length) return;
    known.models = answer.models;
    known.collectsFeedback = answer.feedback === true;
    const names = known.models.map((one) => new Option(`${one.name}, version ${one.version}`, JSON.stringify([one.name, one.version])));
    const picked = $("model-pick").value;
    $("model-pick").replaceChildren(new Option("the service's choice", ""), ...names);
    $("model-pick").value = names.some((one) => one.value === picked) ? picked : "";
    $("model-box").hidden = known.models.length < 2;
    adopt(known.models.find((one) => $("model-pick").value === JSON.stringify([one.name, one.version])) ?? known.models[0]);
  } catch (error) {
    if (error instanceof Problem) showProblem(error);
  }
}

// Another model than the one that was listed first may answer: one is the operator's default, or was put in since.
export async function adoptAnswering({ name, version }) {
  const isIt = (one) => one.name === name && String(one.version) === String(version);
  if (known.model && isIt(known.model)) return;
  if (!known.models.some(isIt)) await loadModel();
  const found = known.models.find(isIt);
  if (found && !isIt(known.model)) adopt(found);
}

// Show what a model can do.
export function adopt(model) {
  const { labels } = model;
  Object.assign(known, { model, labels, hasMarks: Boolean(model.marks?.length), hasSets: model.sets === true });
  if (!known.among.every(isKnown)) {
    known.among = known.among.filter(isKnown);
    $("among").value = known.among.join("\n");
  }
  $("labels").replaceChildren(...labels.map((label) => new Option(label, label)));
  $("model").textContent = `${model.name} version ${model.version} · ${labels.length} classes`;
  $("knows").textContent =
    (model.novelty
      ? `The model knows ${labels.length} classes. It says where a picture is like none of them, and names the nearest. `
      : `The model knows ${labels.length} classes, and gives one of them to any picture, even of something else. `) +
    (model.licence ? `Its weights: ${model.licence}.` : "");
  $("view-attention").hidden = model.has_attention === false;
  $("about-marks").hidden = !known.hasMarks;
  const layers = model.layers.map(({ index, name }) => new Option(index ? name : `${name} (last)`, index ? name : ""));
  $("layer-pick").replaceChildren(...layers);
  $("layer-box").hidden = layers.length < 2;
  const priors = model.priors.map((name) => new Option(name, name));
  const prior = $("prior").value;
  $("prior").replaceChildren(new Option("all alike", ""), ...priors);
  $("prior").value = model.priors.includes(prior) ? prior : "";
  $("prior-box").hidden = !priors.length;
  known.adopted();
}

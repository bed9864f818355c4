// What the page is made of: its elements, the photos, and which of them is shown.

import { isPassing, similar } from "./requests.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/**
 * All photos: {file, url, question, result, problem, controller, pinned: name of the mark whose map stays, sent: what is
 * sent of it with a word on it, answered: the question of the result, options: what the controls said then, typed and
 * refused: of the last question, retry: seconds until a busy service is asked again, shown: address of the service's own
 * picture, where isForeign: the browser cannot show the file}
 */
export const photos = [];

/** The photo that is shown, and the name of the mark under the pointer or the focus. */
export const state = { current: null, pointed: null };

export function showProblem(problem) {
  const { document: details, status } = problem;
  $("problem").hidden = false;
  $("problem-title").textContent = details?.title || "Something went wrong";
  const id = details?.request_id && status >= 500 ? ` (request ${details.request_id})` : "";
  $("problem-detail").textContent = problem.message + similar(problem) + id;
  $("key-form").hidden = status !== 401;
  $("again").hidden = !isPassing(problem) || !state.current;
}

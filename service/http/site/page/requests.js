// Requests to the service: its key, its errors, and patience while it is busy.

const RETRIES = 4; // of a busy service
const LONGEST_WAIT = 30; // seconds

export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.document = document;
    this.status = status;
  }
}

export const similar = (problem) => (problem.document?.nearest?.length ? ` Similar: ${problem.document.nearest.join(", ")}.` : "");

/** Whether the same request may succeed later. */
export const isPassing = ({ status }) => status === 0 || status === 429 || status >= 500;

function headers(accept) {
  const key = sessionStorage.getItem("fieldmark-key");
  return key ? { Accept: accept, "X-API-Key": key } : { Accept: accept };
}

// Calls waiting(seconds) at each second that is left, and at last with 0.
async function pause(seconds, signal, waiting) {
  for (let left = Math.ceil(seconds); left > 0; left -= 1) {
    waiting(left);
    await new Promise((done) => setTimeout(done, 1000));
    signal?.throwIfAborted();
  }
  waiting(0);
}

/** Return the response; a busy service is asked again, and `waiting(seconds)` is called as that time runs down. */
export async function call(path, { retries = RETRIES, waiting = () => {}, ...options }, accept) {
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...headers(accept), ...options.headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "The service cannot be reached", detail: "Is it still running? Try again in a moment." }, 0);
    }
    if (response.ok) return response;
    const busy = response.status === 429 || response.status === 503;
    if (busy && attempt < retries) {
      await pause(Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT), options.signal, waiting);
      continue;
    }
    throw new Problem(await response.json().catch(() => ({})), response.status);
  }
}

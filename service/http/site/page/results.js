// Answers to keep: as a table, as JSON, and as a command that gets one of them without the page.

const COLUMNS = ["filename", "label", "probability", "known", "novelty", "set", "marks", "prior", "width", "height", "model", "version", "problem"];

// A table calculator runs what begins like a formula; a name does not have to be a name.
function cell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return a table of the photos, one a row, RFC 4180. */
export function csv(photos) {
  const rows = photos.filter((photo) => photo.result || photo.problem).map(({ file, result, problem }) => {
    if (!result) return { filename: file.name, problem: problem.message };
    const [{ label, probability }] = result.predictions;
    const { known, novelty, prior, width, height } = result;
    const marks = result.marks?.map((mark) => mark.name).join("; ");
    const { name: model, version } = result.model;
    return { filename: file.name, label, probability, known, novelty, set: result.set?.join("; "), marks, prior, width, height, model, version };
  });
  return [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/** Return the service's answers without the pictures of their maps. */
export function json(photos) {
  const results = photos.filter((photo) => photo.result || photo.problem).map(({ file, result, problem }) =>
    result ?? { filename: file.name, ...problem.document });
  return `${JSON.stringify({ results }, (name, value) => (name === "png" || name === "mark_maps" ? undefined : value), 2)}\n`;
}

// For a POSIX shell. Control characters could end a paste and start a command.
const quoted = (text) => `'${text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?").replaceAll("'", "'\\''")}'`;

/** Return the command that asks the same of a file in the current folder; a key stays out of it. */
export function curl(address, name, needsKey) {
  const key = needsKey ? ' -H "X-API-Key: $KEY"' : "";
  return `curl -H 'Accept: application/json'${key} --data-binary ${quoted(`@./${name}`)} ${quoted(address)}`;
}

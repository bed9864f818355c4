// The values behind a map's colours: read back from its picture, so that they lie exactly where the colours do.

const LEVELS = 254; // of a map; each has a colour of its own
const TABLES = ["turbo", "viridis", "inferno", "jet"]; // rows of colormaps.png
const ONE = [255, 122, 0]; // orange, for the first class; for the other blue:
const OTHER = [0, 104, 255]; // any kind of colour vision separates the two

const known = new WeakMap(); // map of an answer → its values
let tables; // settles to the colours of every table

async function pixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

const colour = (data, at) => (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];

async function levelsOf(colormap) {
  tables ??= pixels("page/colormaps.png");
  const { data, width } = await tables;
  const row = TABLES.indexOf(colormap) * width;
  const found = new Map();
  for (let level = 0; level <= LEVELS; level += 1) {
    found.set(colour(data, 4 * (row + Math.round((level * (width - 1)) / LEVELS))), level);
  }
  return found;
}

/** Return the values of a map by pixel, `{width, height, values}`; not-a-number where the model did not look. */
export function valuesOf(map, colormap) {
  if (!known.has(map)) known.set(map, read(map, colormap));
  return known.get(map);
}

async function read(map, colormap) {
  const [levels, { data, width, height }] = await Promise.all([levelsOf(colormap), pixels(map.png)]);
  const values = new Float32Array(width * height);
  const step = (map.max - map.min) / LEVELS;
  for (let at = 0; at < values.length; at += 1) {
    const level = data[4 * at + 3] ? levels.get(colour(data, 4 * at)) : undefined;
    values[at] = level === undefined ? NaN : map.min + level * step;
  }
  return { width, height, values };
}

/** Return the value at a place, in shares of the sides. */
export function valueAt({ width, height, values }, x, y) {
  const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
  return values[Math.min(row, height - 1) * width + Math.min(column, width - 1)];
}

/** Return one layer of a contrast and its reverse: for the one orange, for the other blue, on one scale. */
export async function inTwoColours(forOne, forOther, colormap) {
  const [one, other] = await Promise.all([valuesOf(forOne, colormap), valuesOf(forOther, colormap)]);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [one.width, one.height];
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(one.width, one.height);
  const most = Math.max(forOne.max, forOther.max);
  for (let at = 0; at < one.values.length; at += 1) {
    const difference = one.values[at] - other.values[at];
    if (!difference) continue; // nothing for either, or not looked at
    drawn.data.set(difference > 0 ? ONE : OTHER, 4 * at);
    drawn.data[4 * at + 3] = Math.min(255, Math.round((255 * Math.abs(difference)) / most));
  }
  context.putImageData(drawn, 0, 0);
  return { png: canvas.toDataURL(), most };
}

// Photos as they are sent: large ones are shrunk here, since a network sees a few hundred pixels of a side.

const LARGE_SIDE = 4096; // pixels
const LARGE_BYTES = 4 * 1024 * 1024;
const SENT_SIDE = 2048; // pixels: beyond it no model gains, and a map lies as well
const SMALL_BYTES = 1024 * 1024;
const QUALITY = 0.92;

/**
 * Return the file to send, with a word on it: `{file, words}`; where it is sent with many others, a small one.
 *
 * A file that the browser cannot read is sent as it is. The sides keep their ratio, so the maps fit the whole photo.
 */
export async function prepared(file, url, isOneOfMany = false) {
  const image = new Image();
  image.src = url;
  const shown = await new Promise((done) => {
    image.onload = () => done(true);
    image.onerror = () => done(false);
  });
  if (!shown) return { file, words: "Your browser cannot show this file, so it is sent as it is." };
  const { naturalWidth: width, naturalHeight: height } = image; // upright
  const longer = Math.max(width, height);
  const [most, bytes] = isOneOfMany ? [SENT_SIDE, SMALL_BYTES] : [LARGE_SIDE, LARGE_BYTES];
  if (longer <= most && (file.size <= bytes || longer <= SENT_SIDE)) return { file, words: "" };
  const factor = SENT_SIDE / longer;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * factor)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind what is transparent, as in the service
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  if (!blob) return { file, words: "" }; // more pixels than this browser draws
  const words = `Shrunk here from ${width} × ${height} to ${canvas.width} × ${canvas.height} pixels before it was sent; the maps lie on your whole photo.`;
  return { file: new File([blob], file.name || "pasted", { type: "image/jpeg" }), words };
}

// An image file of a person: decoded, and made small in the browser before it is sent anywhere.

const LONGEST = 1600; // pixels of a side: more than any network here looks at

// Decode a file (a Blob), upright, its colours as they are. Browsers that do not know these options, and
// drawings (SVG), go through an element, which is upright.
export async function bitmapOf(file) {
  const untouched = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(file, untouched);
  } catch {
    const url = URL.createObjectURL(file);
    const shown = new Image();
    shown.src = url;
    try {
      await shown.decode();
      return shown;
    } catch {
      throw new Error(`${file.name ?? "the file"} is not an image that this browser can read`);
    } finally {
      URL.revokeObjectURL(url);
    }
  }
}

// Returns the bytes of a PNG or JPEG, upright and no larger than LONGEST.
export async function openImage(file) {
  const picture = await bitmapOf(file);
  const [width, height] = [picture.width || 512, picture.height || 512]; // an SVG may have none
  const smaller = Math.min(1, LONGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * smaller)));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const type = file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  const blob = await new Promise((done) => canvas.toBlob(done, type, 0.95));
  return blob.arrayBuffer();
}
